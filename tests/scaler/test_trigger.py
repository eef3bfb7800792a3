"""scaler.core.trigger and selector: one row a rule."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.core import selector
from scaler.core.trigger import HIDDEN, KEYS, Trigger, TriggerError, metric_spec, parse, settings


def test_the_empty_trigger_has_every_default() -> None:
    trigger = parse("default", "llama", {})
    assert trigger == Trigger("default", "llama")
    assert (trigger.stale_after, trigger.kv_cache_target, trigger.drain_within) == (15, 0.8, 60)
    assert (trigger.ttft_target, trigger.headroom, trigger.queue_target) == (2, None, None)


GOOD = [
    ("model", "meta-llama/Llama-3.1-8B", "model", "meta-llama/Llama-3.1-8B"),
    ("queueTarget", "2.5", "queue_target", 2.5),
    ("kvCacheTarget", "1", "kv_cache_target", 1.0),
    ("headroom", "0", "headroom", 0.0),
    ("ttftTarget", "500ms", "ttft_target", 0.5),
    ("coldStart", "auto", "cold_start", None),
    ("coldStart", "2m30s", "cold_start", 150.0),
    ("drainWithin", "90s", "drain_within", 90.0),
    ("staleAfter", "2500ms", "stale_after", 2.5),
    ("maxReplicas", "8", "max_replicas", 8),
    ("metric", "queue-depth", "metric", "queue-depth"),
    ("mode", "advisory", "mode", "advisory"),
]


@pytest.mark.parametrize(("key", "text", "field", "value"), GOOD, ids=[f"{row[0]}={row[1]}" for row in GOOD])
def test_a_good_value_is_taken(key: str, text: str, field: str, value: object) -> None:
    assert getattr(parse("default", "llama", {key: text}), field) == value


BAD = [
    ("model", "", "is not a model's name"),
    ("podSelector", "app in a,b", "is not a label selector"),
    ("podSelector", "", "is not a label selector"),
    ("queueTarget", "0", "from 0.01 to 1e+06"),
    ("queueTarget", "nan", "is not a number"),
    ("queueTarget", "inf", "is not a number"),
    ("queueTarget", "-1", "is not a number"),
    ("queueTarget", "1_0", "is not a number"),
    ("queueTarget", "٥", "is not a number"),
    ("queueTarget", "5 ", "is not a number"),
    ("kvCacheTarget", "1.1", "from 0.05 to 1"),
    ("kvCacheTarget", "80%", "from 0.05 to 1"),
    ("headroom", "11", "from 0 to 10"),
    ("ttftTarget", "2", "is not a duration"),
    ("ttftTarget", "50ms", "from 0.1s to 600s"),
    ("coldStart", "fast", "or auto"),
    ("drainWithin", "60", "is not a duration"),
    ("drainWithin", "2h", "from 1s to 3600s"),
    ("drainWithin", "-5s", "is not a duration"),
    ("drainWithin", "5 s", "is not a duration"),
    ("staleAfter", "1s", "from 2s to 600s"),
    ("maxReplicas", "0", "is not a whole number"),
    ("maxReplicas", "2.5", "is not a whole number"),
    ("metric", "gpu", "required-replicas, queue-depth"),
    ("mode", "off", "active, advisory"),
]


@pytest.mark.parametrize(("key", "text", "words"), BAD, ids=[f"{row[0]}={row[1]!a}" for row in BAD])
def test_a_bad_value_is_named_with_its_key_and_the_fix(key: str, text: str, words: str) -> None:
    with pytest.raises(TriggerError) as error:
        parse("default", "llama", {key: text})
    line = str(error.value)
    assert line.startswith(f"ScaledObject default/llama: trigger metadata key {key}: ")
    assert words in line
    assert "write" in line
    assert "\n" not in line


UNKNOWN = [
    ("modle", "did you mean mode or model?"),
    ("podselector", "did you mean podSelector?"),
    ("KVCacheTarget", "did you mean kvCacheTarget?"),
    ("url", "known keys: model, podSelector"),
    ("prometheusAddress", "known keys"),
    ("endpoint", "known keys"),
    ("gateway", "no gateway is configured"),
    ("evil\nkey\x00", r"'evil\nkey\x00'"),
]


@pytest.mark.parametrize(("key", "words"), UNKNOWN, ids=[repr(row[0]) for row in UNKNOWN])
def test_an_unknown_key_is_an_error_with_a_hint(key: str, words: str) -> None:
    with pytest.raises(TriggerError) as error:
        parse("default", "llama", {key: "x", "model": "m"})
    assert words in str(error.value)
    assert "\n" not in str(error.value)


OF_KEDA = ["scalerAddress", "enableTLS", "unsafeSsl", "caCert", "tlsClientCert", "tlsClientKey", "tlsCertFile"]


@pytest.mark.parametrize("key", [*OF_KEDA, "passwordFromEnv", "scalerAddressFromEnv"])
def test_what_keda_adds_is_accepted_and_kept_nowhere(key: str) -> None:
    trigger = parse("default", "llama", {key: "s3cret"})
    assert trigger == Trigger("default", "llama")
    assert "s3cret" not in repr(settings(trigger))


def test_a_value_from_the_environment_is_honoured_but_never_shown() -> None:
    trigger = parse("default", "llama", {"modelFromEnv": "s3cret", "queueTarget": "7"})
    assert trigger.model == "s3cret"
    assert trigger.shown == {"modelFromEnv": HIDDEN, "queueTarget": "7"}
    assert settings(trigger)["model"] == HIDDEN
    with pytest.raises(TriggerError) as error:
        parse("default", "llama", {"queueTargetFromEnv": "s3cret"})
    assert "queueTargetFromEnv" in str(error.value)
    assert "s3cret" not in str(error.value)


def test_a_plain_key_goes_before_the_same_key_from_the_environment() -> None:
    assert parse("default", "llama", {"model": "a", "modelFromEnv": "b"}).model == "a"


@pytest.mark.parametrize(("namespace", "name"), [("", "a"), ("a", ""), ("A", "a"), ("a", "b/c"), ("a" * 254, "a")])
def test_what_is_no_kubernetes_name_is_refused(namespace: str, name: str) -> None:
    with pytest.raises(TriggerError, match="scaledObjectRef"):
        parse(namespace, name, {})


SPECS = [
    ({}, ("required-replicas", 1.0)),
    ({"metric": "required-replicas", "queueTarget": "9"}, ("required-replicas", 1.0)),
    ({"metric": "queue-depth"}, ("queue-depth", 5.0)),
    ({"metric": "queue-depth", "queueTarget": "2.5"}, ("queue-depth", 2.5)),
    ({"metric": "queue-depth", "queueTarget": "nonsense"}, ("queue-depth", 5.0)),
    ({"metricFromEnv": "queue-depth", "queueTargetFromEnv": "3"}, ("queue-depth", 3.0)),
    ({"metric": "nonsense", "nonsense": ""}, ("required-replicas", 1.0)),
]


@pytest.mark.parametrize(("metadata", "spec"), SPECS, ids=[str(row[0]) for row in SPECS])
def test_a_spec_can_be_derived_from_any_metadata(metadata: dict[str, str], spec: tuple[str, float]) -> None:
    assert metric_spec(metadata) == spec


@given(st.dictionaries(st.one_of(st.sampled_from(sorted(KEYS)), st.text(max_size=5)), st.text(max_size=40), max_size=6))
def test_any_metadata_is_a_trigger_or_one_line(metadata: dict[str, str]) -> None:
    name, target = metric_spec(metadata)
    assert name in ("required-replicas", "queue-depth")
    assert 0 < target <= 1e6
    try:
        parse("default", "llama", metadata)
    except TriggerError as refused:
        line = str(refused)
    else:
        return
    assert line.isascii()
    assert line.isprintable()
    assert any(ascii(key)[1:-1] in line for key in metadata)


LABELS = {"app": "llama", "tier": "b", "kubernetes.io/name": "x"}
SELECTORS = [
    ("app=llama", True),
    ("app==llama", True),
    ("app=other", False),
    ("app = llama , tier = b", True),
    ("app=llama,tier=a", False),
    ("kubernetes.io/name=x", True),
    ("app!=llama", False),
    ("app!=other", True),
    ("missing!=x", True),
    ("tier in (a,b)", True),
    ("tier in (a, c)", False),
    ("tier notin (a,c)", True),
    ("missing notin (a)", True),
    ("missing in (a)", False),
    ("app", True),
    ("missing", False),
    ("!missing", True),
    ("! app", False),
    ("missing=", False),
]


@pytest.mark.parametrize(("text", "meets"), SELECTORS, ids=[row[0] for row in SELECTORS])
def test_a_selector_means_what_kubectl_means(text: str, meets: bool) -> None:
    assert selector.meets(selector.parse(text), LABELS) is meets


@pytest.mark.parametrize(
    "text", ["=a", "a=b,", ",", "a in ()x", "a in (b", "a=b c", "a>1", "-a=b", "a=" + "x" * 2000, "!"]
)
def test_a_malformed_selector_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is "):
        selector.parse(text)


@given(st.text(alphabet="ab=!,() in\tot", max_size=60))
def test_a_selector_parses_or_says_why(text: str) -> None:
    try:
        requirements = selector.parse(text)
    except ValueError as refused:
        said = str(refused)
    else:
        said = "; " if requirements else ""
        selector.meets(requirements, LABELS)
    assert "; " in said
