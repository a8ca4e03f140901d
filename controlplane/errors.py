"""The one error tree. Leaves say what the CALLER can do, not where it happened.

    HftctlError                     exit code 1 unless a leaf says otherwise
    ├── Retryable                   the same call may succeed later (`retry_after_s` when that is known)
    │   ├── Unavailable             no usable answer; `ambiguous` = the write may have been applied
    │   ├── Compacted               the watch or read revision is gone: list again
    │   ├── FloorUnreachable        no agent answers (exit 3)
    │   └── NotPermitted            a circuit breaker or a bulkhead lets no call through now; nothing was sent
    └── Permanent                   the same call will fail again
        ├── LeaseLost               the store no longer knows the lease: take a new one
        ├── Denied                  credentials refused
        ├── TooLarge                over the store's or the wire's limit
        ├── InvalidInput            bad file, option or message; names file, line, field (exit 2)
        │   └── InvalidSettings     a setting, or settings that do not fit together
        ├── InUse                   a lock, folder or port belongs to another process (exit 2)
        └── Refused                 understood and declined, with the reason (exit 1)

Expected outcomes (a lost compare-and-swap, a refused order) are return values, never exceptions.
"""

from __future__ import annotations


class HftctlError(Exception):
    exit_code = 1


class Retryable(HftctlError):
    def __init__(self, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Unavailable(Retryable):
    """No usable answer from the store. `ambiguous`: it was sent, so a write may have been applied."""

    exit_code = 3

    def __init__(self, message: str, *, ambiguous: bool = False, retry_after_s: float | None = None) -> None:
        super().__init__(message, retry_after_s=retry_after_s)
        self.ambiguous = ambiguous


class Compacted(Retryable):
    pass


class FloorUnreachable(Retryable):
    exit_code = 3


class NotPermitted(Retryable):
    pass


class Permanent(HftctlError):
    pass


class LeaseLost(Permanent):
    pass


class Denied(Permanent):
    exit_code = 3


class TooLarge(Permanent):
    pass


class InvalidInput(Permanent):
    exit_code = 2


class InvalidSettings(InvalidInput):
    """`field`: the one setting that is wrong, by its name in its dataclass, with what was found there and
    what was wanted; empty: it is not one alone.
    """

    def __init__(self, message: str, *, field: str = "", found: object = None, wanted: str = "") -> None:
        super().__init__(message)
        self.field, self.found, self.wanted = field, found, wanted


class InUse(Permanent):
    exit_code = 2


class Refused(Permanent):
    pass
