"""Records of feature maps, with the methods that timm's have."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

Records = Iterable[dict[str, Any]]


class FeatureInfo(list[dict[str, Any]]):
    """A list of the records of stages, which timm's code can ask too.

    A record is that of a stage, or in a network of two pathways holds one for each, "slow" and "fast". The methods then
    give pairs, in the order of the maps, or with ``pathway`` the values of that pathway alone.

    Attributes:
        out_indices: the stages that the list has.
    """

    def __init__(
        self, selected: Records, every: Records | None = None, out_indices: Sequence[int] | None = None
    ) -> None:
        super().__init__(selected)
        self._every = list(self if every is None else every)
        self.out_indices = tuple(range(len(self)) if out_indices is None else out_indices)

    def channels(self, idx: int | Sequence[int] | None = None, *, pathway: str | None = None) -> Any:
        """Channels of the maps, of the stages in the list or of those with these indices (0 is the stem)."""
        return self.get("num_chs", idx, pathway=pathway)

    def reduction(self, idx: int | Sequence[int] | None = None, *, pathway: str | None = None) -> Any:
        """How many times smaller the maps' sides are than the clip's; ``idx`` as in :meth:`channels`."""
        return self.get("reduction", idx, pathway=pathway)

    def module_name(self, idx: int | Sequence[int] | None = None, *, pathway: str | None = None) -> Any:
        """Names of the submodules that make the maps; ``idx`` as in :meth:`channels`."""
        return self.get("module", idx, pathway=pathway)

    def get(self, key: str, idx: int | Sequence[int] | None = None, *, pathway: str | None = None) -> Any:
        """The values under a key of the records; ``idx`` as in :meth:`channels`."""

        def value(record: dict[str, Any]) -> Any:
            return record[key] if "module" in record else tuple(part[key] for part in record.values())

        records = self._records(idx, pathway)
        return value(records) if isinstance(records, dict) else [value(record) for record in records]

    def get_dicts(
        self, keys: Sequence[str] | None = None, idx: int | Sequence[int] | None = None, *, pathway: str | None = None
    ) -> Any:
        """The records, or these keys of them; ``idx`` as in :meth:`channels`."""

        def chosen(record: dict[str, Any]) -> dict[str, Any]:
            if "module" not in record:
                return {name: chosen(part) for name, part in record.items()}
            return record if keys is None else {key: record[key] for key in keys}

        records = self._records(idx, pathway)
        return chosen(records) if isinstance(records, dict) else [chosen(record) for record in records]

    def _records(self, idx: int | Sequence[int] | None, pathway: str | None) -> Any:
        found: Any = list(self) if idx is None else None
        if found is None:
            found = [self._every[i] for i in idx] if isinstance(idx, Sequence) else self._every[idx]  # type: ignore[index]
        if pathway is None:
            return found
        return self._of(found, pathway) if isinstance(found, dict) else [self._of(record, pathway) for record in found]

    @staticmethod
    def _of(record: dict[str, Any], pathway: str) -> Any:
        if "module" in record or pathway not in record:
            has = "one pathway, without a name" if "module" in record else f"the pathways {', '.join(record)}"
            raise ValueError(f"the network has {has}, so not {pathway!r}")
        return record[pathway]
