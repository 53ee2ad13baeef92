"""Description of one kind of evaluation: what suites, tables, reports and published numbers know about it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from evaluate.common.metrics import Metric


class Description:
    """One kind of evaluation; a subclass fills in the attributes, and its module holds an instance named `PROBE`.

    The module is imported by every suite and table, so it imports torch and the config class inside methods only.
    """

    kind: ClassVar[str]
    """Name in protocol files and results: `knn`, `detection`, …"""
    door: ClassVar[str] = "probe"
    """Name of the front door in evaluate/, without `.py`; `probe` is the one that takes the kind as its argument."""
    metrics: ClassVar[tuple[Metric, ...]]
    """Numbers that get a column of the table, in the order of the columns."""
    class_metrics: ClassVar[tuple[Metric, ...]] = ()
    """Metrics that hold one number per class, as `{class: number}`."""
    performance_keys: ClassVar[frozenset[str]] = frozenset()
    """Settings that change speed, memory or a place, not what is measured."""
    data_key: ClassVar[str] = "data.source"
    """Setting that says where the data is."""
    data_option: ClassVar[str] = "--data"
    """Command-line option that sets it."""
    memory_advice: ClassVar[str] = "lower features.batch (results stay the same), or set features.precision=bf16"
    """Settings that help if the memory runs out, as an imperative."""
    many_sources: ClassVar[bool] = False
    """True if `data_key` takes a list of sources, each of which gets a result named `PROTOCOL on SOURCE`."""
    pictures: ClassVar[Mapping[str, str]] = {}
    """Kinds of pictures that it saves next to a result, and their titles in the report."""
    position: ClassVar[int] = 50
    """Place of its columns in the table: cheap evaluations first, and knn has 0."""

    def config_class(self) -> type[Any]:
        """Dataclass of its protocols' settings, with fields `name`, `kind`, `scaled_down` and `protocol_version`."""
        raise NotImplementedError

    def headline_metrics(self, document: Mapping[str, Any]) -> dict[str, float]:
        """Values of those `metrics` that a result.json holds, by key."""
        values = document["metrics"]
        return {metric.key: float(values[metric.key]) for metric in self.metrics if values.get(metric.key) is not None}

    def seed_matters(self, settings: Mapping[str, Any]) -> bool:
        """True if the result depends on the seed for fixed weights; `settings`: the resolved protocol."""
        return True

    def takes_pixels(self, config: Any) -> bool:
        """True if raw pixels can be measured under this protocol."""
        return False

    def for_processes(self, config: Any, world_size: int, arguments: Sequence[str]) -> Any:
        """The settings as `world_size` processes run them with further command-line `arguments`."""
        return config

    def metric(self, key: str) -> Metric:
        """The metric with this key. Raises `KeyError` if it has none."""
        found = {metric.key: metric for metric in self.metrics}
        return found[key]

    def command(self) -> tuple[str, ...]:
        """Front door and the arguments that select this kind: `knn.py`, or `probe.py` and the kind."""
        return (f"{self.door}.py",) if self.door != "probe" else ("probe.py", self.kind)
