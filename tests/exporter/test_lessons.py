"""core/lessons.py: what engines taught of their models, and how long it is kept."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.core.cold_start import MAX_MODELS
from exporter.core.lessons import Lessons, Taught, taught
from exporter.core.model_engines import Learned

M, N = ("ns", "m"), ("ns", "n")


def own(knee: float | None, rate: float | None = None, queued: float = 60.0) -> Learned:
    return Learned(knee_running=knee, service_rate=rate, queued_seconds=queued)


def known(*rows: tuple[tuple[str, str], Learned]) -> tuple[Taught, ...]:
    return tuple(Taught(namespace, model, learned) for (namespace, model), learned in rows)


OLD = known((M, Learned(knee_running=8.0, service_rate=1.0)))

# name, what was known, what the engines show now, knee and rate of M then
CASES = [
    ("nobody shows anything", OLD, [], (8.0, 1.0)),
    ("an engine that never queued", OLD, [(M, Learned())], (8.0, 1.0)),
    ("an engine that borrows", OLD, [(M, own(99.0, 99.0, queued=0.0))], (8.0, 1.0)),
    ("one engine has shown all", OLD, [(M, own(16.0, 2.0))], (16.0, 2.0)),
    ("what it has not shown stays", OLD, [(M, own(16.0))], (16.0, 1.0)),
    ("too short a queue to tell", OLD, [(M, own(None, queued=2.0))], (8.0, 1.0)),
    ("the median of three", OLD, [(M, own(10.0)), (M, own(12.0)), (M, own(500.0))], (12.0, 1.0)),
    ("a borrower has no vote", OLD, [(M, own(10.0)), (M, own(20.0)), (M, own(20.0, queued=0.0))], (15.0, 1.0)),
    ("another model's engine", OLD, [(N, own(16.0, 2.0))], (8.0, 1.0)),
    ("another namespace's engine", OLD, [(("other", "m"), own(16.0, 2.0))], (8.0, 1.0)),
    ("the first ever", (), [(M, own(16.0, 2.0))], (16.0, 2.0)),
]


@pytest.mark.parametrize(("before", "shown", "expected"), [row[1:] for row in CASES], ids=[row[0] for row in CASES])
def test_a_model_is_what_its_engines_have_shown_and_else_what_it_was(before, shown, expected) -> None:
    learned = Lessons(taught(before, shown)).typical[M]
    assert (learned.knee_running, learned.service_rate) == expected
    assert learned.queued_seconds == 0.0  # nobody's own


def test_the_models_that_were_unseen_for_longest_are_forgotten_first() -> None:
    many = taught((), [(("ns", f"{index:04}"), own(1.0)) for index in range(MAX_MODELS)])
    assert len(many) == MAX_MODELS
    seen_again = taught(many, [(("ns", "0000"), own(2.0))])
    more = taught(seen_again, [(("ns", "new"), own(3.0))])
    assert len(more) == MAX_MODELS
    assert [one.model for one in more[-2:]] == ["0000", "new"]
    assert "0001" not in {one.model for one in more}


ENGINES = st.lists(
    st.tuples(
        st.sampled_from((M, N)),
        st.builds(
            Learned,
            knee_running=st.one_of(st.none(), st.floats(0.1, 1e6)),
            service_rate=st.one_of(st.none(), st.floats(0.1, 1e6)),
            queued_seconds=st.floats(0, 1e6),
        ),
    ),
    max_size=8,
)


@given(ENGINES, st.randoms(use_true_random=False))
def test_the_order_of_the_engines_does_not_matter_and_the_same_again_changes_nothing(engines, chance) -> None:
    once = taught(OLD, engines)
    shuffled = list(engines)
    chance.shuffle(shuffled)
    assert taught(OLD, shuffled) == once
    assert taught(once, engines) == once
