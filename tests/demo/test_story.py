"""The story begins when all is known, at once and not before, and its load follows demo time alone."""

import asyncio
import io
from collections.abc import Iterator
from pathlib import Path

import pytest

from scaler.demo import story as story_module
from scaler.demo.cluster import GPUS, Cluster
from scaler.demo.keda import Answer, Keda
from scaler.demo.processes import ProgramError
from scaler.demo.scenarios import SCENARIOS
from scaler.demo.screen import Screen
from scaler.demo.story import SPEC, SPEED, Story
from scaler.demo.watch import Gpu, Seen

WELL = {str(index): Gpu("healthy") for index in range(GPUS)}
ALL = Seen(0.0, 60.0, WELL, engines=3)
KNOWN = Answer(2.5, 1.0, True, "2.5 replicas (kv_cache)")
UNKNOWN = Answer(None, 1.0, None, "UNAVAILABLE: nobody was heard")


class Scripted(Keda):
    """Gives the answers one after the other, the last for ever; each time, the exporter's page is the one beside it."""

    def __init__(self, story: Story, script: list[tuple[Answer, Seen | None]]) -> None:
        super().__init__("127.0.0.1:9", "demo", "chat", {}, SPEC)
        self._story = story
        self._script = iter(script)
        self.asked = 0
        self._now = script[0]

    async def ask(self) -> Answer:
        self._now = next(self._script, self._now)
        self.asked += 1
        answer, self._story._seen = self._now
        return answer


@pytest.fixture
def out() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(story_module, "LOOK", 0.001)
    monkeypatch.setattr(story_module, "READY_SECONDS", 0.02)


@pytest.fixture
def story(out: io.StringIO) -> Iterator[Story]:
    return Story(SCENARIOS["steady"], 600.0, 1, Screen(out, colour=False))


async def told(story: Story, tmp_path: Path, script: list[tuple[Answer, Seen | None]], out: io.StringIO) -> Scripted:
    """Plays until the first row."""
    cluster = Cluster(tmp_path, story.gateway, 60.0, story.say)
    keda = Scripted(story, script)
    await cluster.scale(3, 0.0, cold_start=0.0)
    telling = asyncio.create_task(story.tell(cluster, keda))
    try:
        while not telling.done() and "/s " not in out.getvalue():  # noqa: ASYNC110 -- no event says that it was written
            await asyncio.sleep(0.001)
        if telling.done():
            telling.result()
    finally:
        telling.cancel()
        await keda.close()
        await cluster.close()
    return keda


async def test_it_begins_with_the_first_answer_if_all_is_seen(story: Story, tmp_path: Path, out: io.StringIO) -> None:
    keda = await told(story, tmp_path, [(KNOWN, ALL)], out)
    assert keda.asked == 2  # to begin, and for the first row
    assert story.began is not None


@pytest.mark.parametrize(
    "before",
    [(UNKNOWN, ALL), (KNOWN, None), (KNOWN, ALL._replace(engines=2)), (KNOWN, ALL._replace(gpus={"0": WELL["0"]}))],
    ids=["scaler", "page", "engine", "GPU"],
)
@pytest.mark.usefixtures("quick")
async def test_it_waits_for_what_is_missing(
    before: tuple[Answer, Seen | None], story: Story, tmp_path: Path, out: io.StringIO
) -> None:
    keda = await told(story, tmp_path, [before, before, before, (KNOWN, ALL)], out)
    assert keda.asked == 5


@pytest.mark.parametrize(
    ("missing", "text"),
    [
        ((UNKNOWN, ALL), "scaler knew nothing: UNAVAILABLE: nobody was heard after 0.02 s"),
        ((KNOWN, None), "exporter showed nothing of 8 GPUs and 3 engines after 0.02 s"),
        ((KNOWN, ALL._replace(engines=2)), "exporter showed 8 GPUs and 2 engines of 8 GPUs and 3 engines after 0.02 s"),
    ],
    ids=["scaler", "page", "engine"],
)
@pytest.mark.usefixtures("quick")
async def test_what_never_comes_is_named(
    missing: tuple[Answer, Seen | None], text: str, story: Story, tmp_path: Path, out: io.StringIO
) -> None:
    with pytest.raises(ProgramError) as error:
        await told(story, tmp_path, [missing], out)
    assert str(error.value) == text


def test_the_load_follows_demo_time_however_late_the_models_are(out: io.StringIO) -> None:
    """A demo that was held up for half of its story works off what came meanwhile at the rates of those moments."""
    story = Story(SCENARIOS["burst"], 60.0, 1, Screen(out, colour=False))
    assert story._rate(1e9) == SCENARIOS["burst"].rate(0.0)  # not begun
    story.began = story._clock + 100.0
    start = 100.0 * SPEED
    rates = [story._rate(start + part * 60.0 * SPEED) for part in (-0.1, 0.0, 0.19, 0.21, 0.49, 0.51, 1.0, 2.0)]
    assert rates == [3.2, 3.2, 3.2, 12.8, 12.8, 3.2, 3.2, 3.2]
