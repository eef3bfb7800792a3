"""What `plimsoll simulate --list` prints: everything that can be chosen, with where it comes from.

May not be in here: anything that is not in the tables of scaler/simulate and of the trigger.
"""

import textwrap
from collections.abc import Iterator, Mapping

from scaler.core.trigger import KEYS
from scaler.simulate import clairvoyant, compare
from scaler.simulate.faults import KINDS
from scaler.simulate.generators import COMMON, GENERATORS, Setting
from scaler.simulate.model import Profile
from scaler.simulate.peers import PEERS
from scaler.simulate.report_text import WIDTH, plain
from scaler.simulate.routers import ROUTERS
from scaler.simulate.scenario import NOT_SET

#: Sources hold paths: whoever copies one wants it whole.
_WRAP = textwrap.TextWrapper(WIDTH, initial_indent=" " * 6, subsequent_indent=" " * 6, break_on_hyphens=False)


def text(profiles: Mapping[str, Profile]) -> str:
    lines: list[str] = []
    for title, rows in (
        ("profiles (--profile)", _profiles(profiles)),
        ("policies (--policy NAME=KNOB, --compare, --sweep)", _policies()),
        ("generators (--generate KIND:name=value,...)", _generators()),
        ("routers (--router)", ((name, "") for name in ROUTERS)),
        ("faults (--fault)", ((name, f"{kind.about}: {kind.example}") for name, kind in KINDS.items())),
        ("settings of our policy (--set KEY=VALUE)", _settings()),
    ):
        lines.append(title)
        for name, about in rows:
            lines.append(f"  {plain(name)}")
            lines += _WRAP.wrap(plain(about))
    return "\n".join(lines) + "\n"


def _profiles(profiles: Mapping[str, Profile]) -> Iterator[tuple[str, str]]:
    for profile in profiles.values():
        cold = sum(profile.cold_start)
        yield profile.name, f"{profile.about}; cold start {cold:g} s. Source: {profile.source}"


def _policies() -> Iterator[tuple[str, str]]:
    yield compare.OWN, "what plimsoll-scaler answers, followed by KEDA and the HPA. Source: scaler/core"
    for peer in PEERS.values():
        knob = peer.knob
        sweep = ", ".join(f"{value:g}" for value in peer.sweep)
        yield (
            f"{peer.name}={peer.default:g}",
            f"{peer.about}. Knob: {knob.name}, {knob.unit}: {knob.help} (swept: {sweep}). Source: {peer.source}",
        )
    sweep = ", ".join(f"{value:g}" for value in clairvoyant.SWEEP)
    yield (
        f"{compare.BOUND}={clairvoyant.USUAL:g}",
        f"a bound, not a policy: it knows every request beforehand. Knob: utilisation (swept: {sweep})",
    )


def _generators() -> Iterator[tuple[str, str]]:
    for name, generator in GENERATORS.items():
        yield name, f"{generator.about}. " + "; ".join(map(_setting, generator.settings))
    yield "each of them", "; ".join(map(_setting, COMMON))


def _setting(setting: Setting) -> str:
    unit = f" {setting.unit}" if setting.unit else ""
    return f"{setting.name}={setting.default:g}{unit}: {setting.help}"


def _settings() -> Iterator[tuple[str, str]]:
    return ((key.name, key.help) for key in KEYS.values() if key.name not in NOT_SET)
