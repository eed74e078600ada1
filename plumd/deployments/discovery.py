"""Which copies others may find, as endpoints of the services that their apps declare."""

from __future__ import annotations

from collections.abc import Sequence

from plumd.balance import Endpoint, Key
from plumd.deployments.book import Book, Found
from plumd.fleet import Copy, Phase
from plumd.model import id_text
from plumd.services import Verdict
from plumd.store.apps import AppRow


class Discovery(Book):
    """The side of the book that services are registered from."""

    def _discovery(self) -> tuple[dict[int, Sequence[Endpoint]], list[int]]:
        """Copies whose endpoints are to be registered, and those whose are to be taken away."""
        found: dict[int, Sequence[Endpoint]] = {}
        lost = [number for number in self._gone if number in self._found]
        for number in {*self._dirty, *self._unfound}:
            copy = self._copies.get(number)
            wanted = copy is not None and bool(self._verdicts(copy))
            if wanted and copy is not None and (
                    number not in self._found or number in self._unfound):
                found[number] = self._endpoints(copy)
            elif not wanted and number in self._found:
                lost.append(number)
        lost += [number for number in self._found if number not in lost
                 and not self._rows[self._copies[number].deployment].running]
        self._unfound.clear()
        return found, lost

    def _known(self, number: int) -> Found | None:
        """What discovery knows of a copy since an earlier start of the daemon, None: nothing."""
        verdicts = self._verdicts(self._copies[number])
        at = [seen.endpoint.ip for seen in self.registry.every(instance_id=id_text(number))
              if any(one.means(seen.endpoint) for one in verdicts)]
        return Found(verdicts, at[0]) if at else None

    def _left(self, number: int, endpoints: Sequence[Endpoint]) -> list[Key]:
        """Where discovery knew a copy until now, when that is not where it will."""
        known = self._found.get(number)
        return [] if known is None else [
            (one.service, one.instance_id, known.ip, one.port, one.protocol)
            for one in endpoints if one.ip != known.ip]

    def _ports(self, copy: Copy) -> AppRow | None:
        """The app of a copy that others may find, None when they may not."""
        row = self._rows.get(copy.deployment)
        if (row is None or not row.running or copy.retired or copy.held
                or copy.phase is not Phase.RUNNING or not copy.healthy_ms):
            return None
        entry = self.program(copy.deployment, copy.version, copy.entry)
        return None if entry is None else self.app_of(entry.artifact_url)

    def _verdicts(self, copy: Copy) -> tuple[Verdict, ...]:
        app = self._ports(copy)
        return () if app is None else tuple(
            Verdict(one.service, "", one.port, one.protocol, True) for one in app.ports)

    def _endpoints(self, copy: Copy) -> list[Endpoint]:
        app = self._ports(copy)
        assert app is not None, "only copies with ports are found"
        labels = {"deploymentId": id_text(copy.deployment), "appName": app.name}
        return [Endpoint(one.service, id_text(copy.number), self.nodes.ip_of(copy.node_id),
                         one.port, one.protocol, copy.node_id, app.version, labels)
                for one in app.ports]
