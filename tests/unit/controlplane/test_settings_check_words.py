"""What is said of one bad setting of a document: the path, what was found, what was wanted."""

from __future__ import annotations

from typing import Any

import pytest

from controlplane.errors import InvalidInput
from controlplane.specs import settings_check
from hftd.settings import OMSD, RISKD


@pytest.mark.parametrize(
    ("kind", "document", "said"),
    [
        (RISKD, {"price_collar_ppm": 0}, "riskd: price_collar_ppm: found 0, wanted 1 to 1000000"),
        (
            RISKD,
            {"max_position": "abc"},
            'riskd: max_position: found "abc", wanted a decimal number such as 0.001, '
            "with at most eight places",
        ),
        (RISKD, {"max_order_size": "0"}, 'riskd: max_order_size: found "0", wanted more than 0'),
        (
            OMSD,
            {"breaker": {"failures": 0}},
            "omsd: breaker.failures: found 0, wanted 1 to 1000000",
        ),
    ],
)
def test_a_setting_out_of_its_bounds_is_named_by_its_path(
    kind: Any, document: dict[str, Any], said: str
) -> None:
    with pytest.raises(InvalidInput) as refused:
        settings_check.check(kind, document, kind.name)
    assert str(refused.value) == said
