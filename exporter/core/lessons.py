"""What engines have taught of their models: it outlives them, and this process.

May not be in here: how it is learned (knee.py, pace.py, cold_start.py), where it is kept (state.py).
"""

from collections.abc import Iterable, Mapping

from msgspec import Struct

from exporter.core import knee, pace
from exporter.core.cold_history import ModelStarts
from exporter.core.cold_start import MAX_MODELS
from exporter.core.model_engines import Learned

#: Namespace and name of a model.
Model = tuple[str, str]


class Taught(Struct, frozen=True):
    """What one of a model's engines can be expected to carry."""

    namespace: str
    model: str
    learned: Learned


class Lessons(Struct, frozen=True):
    knees: tuple[Taught, ...] = ()  # the models that were seen last come last
    starts: tuple[ModelStarts, ...] = ()

    @property
    def typical(self) -> Mapping[Model, Learned]:
        return {(one.namespace, one.model): one.learned for one in self.knees}


def taught(known: tuple[Taught, ...], own: Iterable[tuple[Model, Learned]]) -> tuple[Taught, ...]:
    """The models' knees and paces after what each engine has shown itself.

    What none of a model's engines shows now stays as it was. Of more than MAX_MODELS the longest unseen go.
    """
    shown: dict[Model, list[Learned]] = {}
    for model, learned in own:
        if learned.queued_seconds > 0 or learned.pace_seconds > 0:
            shown.setdefault(model, []).append(learned)
    models = {(one.namespace, one.model): one.learned for one in known}
    for model, several in sorted(shown.items()):
        shown_now = pace.with_pace(knee.typical(several), pace.typical(several))
        models[model] = or_typical(shown_now, models.pop(model, Learned()))
    newest = list(models.items())[-MAX_MODELS:]
    return tuple(Taught(namespace, model, learned) for (namespace, model), learned in newest)


def or_typical(own: Learned, typical: Learned) -> Learned:
    """What an engine can carry: its own where it has shown it, else its model's. A pace is one of the two as a whole.

    queued_seconds and pace_seconds are the engine's own, and 0 where what they are the weight of is not.
    """
    return pace.with_pace(knee.or_typical(own, typical), pace.of(own) or pace.of(typical))
