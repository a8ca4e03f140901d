"""Every key of a site, in one file. No leading slash: Consul refuses it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Keys:
    site: str
    prefix: str | None = None
    """Before every key; slashes around it do not matter. None: hft/<site>. Empty or "/": nothing, so that a
    registration is services/<service>/<instance>."""

    @property
    def root(self) -> str:
        prefix = f"hft/{self.site}" if self.prefix is None else self.prefix.strip("/")
        return f"{prefix}/" if prefix else ""

    @property
    def services(self) -> str:
        return f"{self.root}services/"

    def registrations(self, service: str) -> str:
        return f"{self.services}{service}/"

    def registration(self, service: str, instance: str) -> str:
        return f"{self.registrations(service)}{instance}"

    @property
    def maintenance(self) -> str:
        return f"{self.root}maintenance/"

    def maintenance_of(self, service: str, instance: str) -> str:
        return f"{self.maintenance}{service}/{instance}"

    @property
    def specs(self) -> str:
        return f"{self.root}specs/"

    def spec(self, service: str) -> str:
        return f"{self.specs}{service}"

    @property
    def hosts(self) -> str:
        return f"{self.root}hosts/"

    def host(self, host: str) -> str:
        return f"{self.hosts}{host}"

    @property
    def groups(self) -> str:
        return f"{self.root}groups/"

    def group(self, service: str) -> str:
        return f"{self.groups}{service}/"

    def leader(self, service: str) -> str:
        return f"{self.group(service)}leader"

    def epoch(self, service: str) -> str:
        return f"{self.group(service)}epoch"

    def electable(self, service: str) -> str:
        return f"{self.group(service)}electable"

    def request(self, service: str) -> str:
        return f"{self.group(service)}request"

    def history(self, service: str) -> str:
        return f"{self.group(service)}history/"

    def history_row(self, service: str, epoch: int) -> str:
        return f"{self.history(service)}{epoch:08d}"

    def controller(self) -> str:
        return f"{self.root}controller"

    @property
    def breakers(self) -> str:
        return f"{self.root}breakers/"

    def breaker_override(self, breaker: str) -> str:
        return f"{self.breakers}{breaker}/override"

    @property
    def config(self) -> str:
        """Below it a service's documents, each with more names after it, and plain keys, which have none."""
        return f"{self.root}config/"

    def config_of(self, service: str) -> str:
        return f"{self.config}{service}/"

    def config_current(self, service: str) -> str:
        return f"{self.config_of(service)}current"

    def config_rollout(self, service: str) -> str:
        return f"{self.config_of(service)}rollout"

    def config_revision(self, service: str, revision: int) -> str:
        return f"{self.config_of(service)}{revision:08d}"

    def plain_key(self, key: str) -> str:
        return f"{self.config}{key}"

    @property
    def operations(self) -> str:
        return f"{self.root}ops/"

    def operation(self, operation: str) -> str:
        return f"{self.operations}{operation}"

    @property
    def audit_heads(self) -> str:
        return f"{self.root}audit/"

    def audit_head(self, service: str) -> str:
        return f"{self.audit_heads}{service}"

    @property
    def site_record(self) -> str:
        """Which floor the site is of (floor/claim.py)."""
        return f"{self.root}site"

    @property
    def secret(self) -> str:
        """The site's secret, 32 bytes (controlplane/host/secret.py): read by agents alone, at their start.
        No watch covers it.
        """
        return f"{self.root}secret"

    @property
    def restoring(self) -> str:
        """Is there while a backup is put back (backup/restoring.py): nothing is started meanwhile."""
        return f"{self.root}restoring"

    @property
    def pause(self) -> str:
        return f"{self.root}pause"

    @property
    def incarnation(self) -> str:
        """An integer as text: UNIX ms at creation, restore or confirmation."""
        return f"{self.root}incarnation"
