"""What a command line says of a simulation, made into a Scenario.

May not be in here: files and their names, argparse, policies (compare.py).

Every option is a row of OPTIONS: how its text becomes a value is here, so that a wrong one is told in the same words
whichever command it was given to.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from scaler.core.trigger import FROM_ENV, KEDA_KEYS, TriggerError, parse
from scaler.core.written import quoted
from scaler.simulate import clairvoyant, faults, generators, traces
from scaler.simulate.exporters import NAMESPACE
from scaler.simulate.model import Profile, Scenario, Trace
from scaler.simulate.nodes import NODE_GPUS
from scaler.simulate.option_values import number, or_word, seconds, share, whole
from scaler.simulate.profiles import PROFILES, ProfileError, profile
from scaler.simulate.routers import ROUTERS

#: A wave that fits into half an hour: a fleet grows from 2 to 5 replicas and the run takes some 3 s.
DEFAULT_LOAD = "diurnal:low=2,high=16,period=1800,seconds=1800"
#: Its cold start was measured, and a replica is small enough that a moderate load needs several.
DEFAULT_PROFILE = "8b-l40s"
MOST_REPLICAS = 1000
#: Settings of a trigger that say whom it scales: a simulated fleet is one model's.
NOT_SET = ("podSelector", "model")


class ScenarioError(ValueError):
    """What was asked for cannot be simulated. str() is one line: option, cause, fix."""


class Option(NamedTuple):
    """`read` takes the text and raises ValueError("is wrong; fix")."""

    name: str  # without its dashes
    read: Callable[[str], Any]
    default: str
    placeholder: str
    help: str
    many: bool = False


def _router(text: str) -> str:
    if text not in ROUTERS:
        raise ValueError(f"is no router; write one of {', '.join(ROUTERS)}")
    return text


# fmt: off
# One row an option: a wrapped table cannot be scanned.
#: The fleet and what befalls it: of every command.
FLEET = (
    Option("profile", str, DEFAULT_PROFILE, "NAME", "what one replica can do; --list shows them"),
    Option("cold-start", or_word("profile", seconds(0, 86400)), "profile", "DURATION", "from a pod to a first token"),
    Option("router", _router, "least_loaded", "NAME", f"how requests are spread: {', '.join(ROUTERS)}"),
    Option("start", or_word("auto", whole(1, MOST_REPLICAS)), "auto", "REPLICAS", "auto: for what comes first"),
    Option("min", whole(1, MOST_REPLICAS), "1", "REPLICAS", "minReplicaCount"),
    Option("max", whole(1, MOST_REPLICAS), "100", "REPLICAS", "maxReplicaCount"),
    Option("nodes", or_word("any", whole(1, 1000)), "any", "COUNT", f"of {NODE_GPUS} GPUs each, at most"),
    Option("node-provisioning", seconds(0, 86400), "0s", "DURATION", "of a node; 0: all are there from the start"),
    Option("fault", faults.parse, "", "SPEC", "what goes wrong, such as lost@10m:replica=1", many=True),
    Option("interval", seconds(1, 60), "5s", "DURATION", "between two readings of the engines"),
    Option("seed", whole(0, 999_999_999), "0", "NUMBER", "of everything that is left to chance"),
    Option("ttft", seconds(0.1, 600), "2s", "DURATION", "in which a first token is wanted (our ttftTarget)"),
)
LOAD = (
    Option("scale", number(0.001, 1000), "1", "FACTOR", "so many times the requests"),
    Option("spread", seconds(0), "10s", "DURATION", "over which --scale spreads a request's copies"),
    Option("begin", seconds(0), "0s", "TIME", "of the trace at which to begin"),
    Option("end", or_word("end", seconds(0)), "end", "TIME", "of the trace at which to end"),
)
RESULT = (Option("attainment", share, "0.99", "SHARE", "of first tokens in time that is wanted"),)
# fmt: on


def values(options: Iterable[Option], given: Mapping[str, Any]) -> dict[str, Any]:
    """Every option's value, by its name. given: the texts by name; None: the default. Raises ScenarioError."""
    found: dict[str, Any] = {}
    for option in options:
        texts = given.get(option.name)
        if option.many:
            found[option.name] = tuple(_read(option, text) for text in texts or ())
        else:
            found[option.name] = _read(option, option.default if texts is None else texts)
    return found


def _read(option: Option, text: str) -> Any:
    try:
        return option.read(text)
    except faults.FaultError as error:
        raise ScenarioError(f"--{option.name}: {error}") from None
    except ValueError as error:
        raise ScenarioError(f"--{option.name} {quoted(text)}: {error}") from None


def generated(text: str, seed: int) -> Trace:
    """The trace of KIND or KIND:name=value,... Raises ScenarioError."""
    kind, _, rest = text.partition(":")
    settings: dict[str, float] = {}
    for part in rest.split(",") if rest.strip() else ():
        name, _, told = (word.strip() for word in part.partition("="))
        if name in settings:
            raise ScenarioError(f"--generate {quoted(text)}: setting {quoted(name)} is there twice; drop one")
        try:
            settings[name] = number(0, 1e9)(told)
        except ValueError as error:
            raise ScenarioError(f"--generate {quoted(text)}: setting {quoted(name)} {quoted(told)} {error}") from None
    try:
        return generators.generate(kind.strip(), settings, seed)
    except traces.TraceError as error:
        raise ScenarioError(f"--generate: {error}") from None


def part(trace: Trace, of: Mapping[str, Any]) -> Trace:
    """The trace from --begin to --end, times --scale. Raises ScenarioError."""
    option = "--begin, --end"
    try:
        if of["begin"] or of["end"] is not None:
            trace = traces.cut(trace, of["begin"], trace.seconds if of["end"] is None else of["end"])
        option = "--scale"
        if of["scale"] != 1:
            trace = traces.scaled(trace, of["scale"], of["spread"], of["seed"])
    except traces.TraceError as error:
        raise ScenarioError(f"{option}: {error}") from None
    if not trace.arrivals:
        raise ScenarioError(f"trace {quoted(trace.name)}: no request is left of it; take more of it, or a higher rate")
    return trace


def scenario(of: Mapping[str, Any], trace: Trace, profiles: Mapping[str, Profile] = PROFILES) -> Scenario:
    """of: values() of FLEET. Raises ScenarioError."""
    try:
        chosen = profile(of["profile"], profiles)
    except ProfileError as error:
        raise ScenarioError(f"--{error}") from None
    for fault in of["fault"]:
        if fault.at >= trace.seconds:
            raise ScenarioError(
                f"--fault {fault.kind}@{fault.at:g}: the load is over at {trace.seconds:g} s; write less"
            )
    if of["min"] > of["max"]:
        raise ScenarioError(f"--min {of['min']}: is more than --max {of['max']}; lower it")
    made = Scenario(
        trace=trace,
        profile=chosen,
        minimum=of["min"],
        maximum=of["max"],
        cold_start=of["cold-start"],
        router=of["router"],
        faults=of["fault"],
        nodes=of["nodes"],
        node_provisioning=of["node-provisioning"],
        interval=of["interval"],
        seed=of["seed"],
        ttft_target=of["ttft"],
    )
    room = MOST_REPLICAS if of["nodes"] is None else of["nodes"] * max(1, NODE_GPUS // chosen.gpus)
    if of["start"] is None:
        start = min(room, clairvoyant.start(made))
    elif not made.minimum <= (start := of["start"]) <= made.maximum:
        raise ScenarioError(f"--start {start}: is not from --min {made.minimum} to --max {made.maximum}; change one")
    if start > room or made.minimum > room:
        more = max(start, made.minimum)
        raise ScenarioError(f"--nodes {of['nodes']}: hold {room} replicas, {more} are there at the start; allow more")
    return made._replace(start=start)


def metadata(pairs: Iterable[str], before: Mapping[str, str]) -> dict[str, str]:
    """A trigger's metadata with what KEY=VALUE texts change in it; `KEY=` takes one back. Raises ScenarioError on what
    the scaler would refuse, and on what is for KEDA alone."""
    found = dict(before)
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise ScenarioError(f"--set {quoted(pair)}: is not KEY=VALUE; write for example --set headroom=0.2")
        if key in NOT_SET:
            raise ScenarioError(f"--set {quoted(pair)}: a simulated fleet is of one model; drop it")
        if key in KEDA_KEYS or key.endswith(FROM_ENV):
            raise ScenarioError(f"--set {quoted(key)}: is for KEDA alone and changes nothing here; drop it")
        if not value:
            found.pop(key, None)
            continue
        try:
            parse(NAMESPACE, "model", {key: value})
        except TriggerError as error:
            _, _, told = str(error).partition("trigger metadata key ")
            raise ScenarioError(f"--set {told}") from None
        found[key] = value
    return found
