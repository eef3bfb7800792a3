"""Every metric family that Plimsoll exposes: name, type, labels, help. docs/metrics.md is made from it.

May not be in here: values, rendering. A family that is not in this table cannot be published.
"""

from typing import NamedTuple

GPU = ("node", "gpu", "uuid", "mig_instance")
ENGINE = ("namespace", "pod", "container", "model", "node", "engine", "endpoint")
OBJECT = ("namespace", "scaledobject")


class Family(NamedTuple):
    name: str  # as in the text format: counters end in _total
    type: str  # gauge | counter | histogram
    labels: tuple[str, ...]
    help: str


# One row a family: a wrapped table cannot be scanned.
# fmt: off
EXPORTER: tuple[Family, ...] = (
    Family("plimsoll_build_info", "gauge", ("version", "pythonversion"), "Version of this program; always 1."),
    Family("plimsoll_gpu_info", "gauge", (*GPU, "name", "pci_bus_id", "driver_version", "profile"), "Who the GPU is; always 1."),
    Family("plimsoll_gpu_pod", "gauge", (*GPU, "namespace", "pod", "container", "sharing"), "A container that the GPU is given to; always 1. sharing: shared (time slices or MPS), else exclusive; absent: unknown."),
    Family("plimsoll_gpu_pod_health_state", "gauge", (*GPU, "namespace", "pod", "container", "state"), "The state of the GPU that a container was given; always 1."),
    Family("plimsoll_gpu_pod_health_reason", "gauge", (*GPU, "namespace", "pod", "container", "reason", "action"), "A reason for the state of the GPU that a container was given; always 1."),
    Family("plimsoll_gpu_health_state", "gauge", (*GPU, "state"), "1 for the state that the GPU is in, 0 for the others."),
    Family("plimsoll_gpu_health_reason", "gauge", (*GPU, "reason", "action"), "A reason for the state and the action that mends it; always 1."),
    Family("plimsoll_gpu_health_unknown", "gauge", (*GPU, "part"), "A part of the verdict that nobody can tell of this GPU now; always 1. See docs/gpu-health.md."),
    Family("plimsoll_gpu_health_transitions_total", "counter", GPU, "Changes of the GPU's health state, since it was first seen (with a state file: in this boot)."),
    Family("plimsoll_gpu_capacity_ratio", "gauge", GPU, "Part of the GPU's work that it can do now: 0 lost or unhealthy, the clock share while throttled, else 1. Absent: unknown."),
    Family("plimsoll_gpu_reading_age_seconds", "gauge", GPU, "Age of the newest reading of the GPU from any source."),
    Family("plimsoll_gpu_utilization_ratio", "gauge", GPU, "Share of time in which a kernel ran. Not a measure of saturation."),
    Family("plimsoll_gpu_memory_bytes", "gauge", (*GPU, "kind"), "Frame-buffer memory by kind: total, used, free, reserved."),
    Family("plimsoll_gpu_temperature_celsius", "gauge", (*GPU, "sensor"), "Temperature by sensor: gpu, memory."),
    Family("plimsoll_gpu_temperature_margin_celsius", "gauge", GPU, "What is left until the clocks are slowed down, on boards that tell it (Ada and newer). Below 0: too hot."),
    Family("plimsoll_gpu_temperature_margin_limit_celsius", "gauge", (*GPU, "limit"), "The margin at which something happens: shutdown, slowdown, memory_max, gpu_max."),
    Family("plimsoll_gpu_temperature_limit_celsius", "gauge", (*GPU, "limit"), "The temperature at which something happens: shutdown, slowdown."),
    Family("plimsoll_gpu_power_watts", "gauge", GPU, "Power draw of the board."),
    Family("plimsoll_gpu_power_limit_watts", "gauge", (*GPU, "kind"), "Power limit by kind: enforced, default."),
    Family("plimsoll_gpu_energy_joules_total", "counter", GPU, "Energy used since the driver was loaded."),
    Family("plimsoll_gpu_clock_hertz", "gauge", (*GPU, "domain"), "Clock now by domain: sm, memory."),
    Family("plimsoll_gpu_clock_max_hertz", "gauge", (*GPU, "domain"), "Highest clock of the board by domain: sm, memory."),
    Family("plimsoll_gpu_clock_application_hertz", "gauge", (*GPU, "domain"), "Clock that applications are set to run at, by domain: sm."),
    Family("plimsoll_gpu_throttle_active", "gauge", (*GPU, "reason"), "1 while the driver holds the clocks down for this reason, else 0."),
    Family("plimsoll_gpu_throttle_seconds_total", "counter", (*GPU, "reason"), "Time for which the clocks were held down for this reason."),
    Family("plimsoll_gpu_ecc_enabled", "gauge", GPU, "1 if ECC is on, else 0."),
    Family("plimsoll_gpu_ecc_pending", "gauge", GPU, "1 if ECC will be on after the next reset, else 0."),
    Family("plimsoll_gpu_ecc_errors_total", "counter", (*GPU, "kind", "location"), "ECC errors since the driver was loaded, by kind: corrected, uncorrected; location all is the board, dram and sram are parts of it."),
    Family("plimsoll_gpu_ecc_lifetime_errors_total", "counter", (*GPU, "kind", "location"), "ECC errors in the board's life, by kind: corrected, uncorrected."),
    Family("plimsoll_gpu_sram_threshold_exceeded", "gauge", GPU, "1 if the board's SRAM has had more uncorrectable errors than it may (the board is to be replaced), else 0."),
    Family("plimsoll_gpu_remapped_rows", "gauge", (*GPU, "kind"), "Memory rows that were remapped, by the kind of error that led to it: correctable, uncorrectable."),
    Family("plimsoll_gpu_row_remap_pending", "gauge", GPU, "1 if a row remap waits for a reset of the GPU, else 0."),
    Family("plimsoll_gpu_row_remap_failure", "gauge", GPU, "1 if a row remap has failed (the board is to be replaced), else 0."),
    Family("plimsoll_gpu_remap_banks", "gauge", (*GPU, "availability"), "Memory banks by the spare rows that they have left: max, high, partial, low, none."),
    Family("plimsoll_gpu_retired_pages", "gauge", (*GPU, "cause"), "Memory pages that were retired (boards before Ampere), by cause: single_bit, double_bit."),
    Family("plimsoll_gpu_retired_pages_pending", "gauge", GPU, "1 if a page waits for the next driver load to be retired, else 0."),
    Family("plimsoll_gpu_pcie_replays_total", "counter", GPU, "PCIe packets that had to be sent again."),
    Family("plimsoll_gpu_pcie_link_generation", "gauge", (*GPU, "kind"), "PCIe generation of the link: current, max."),
    Family("plimsoll_gpu_pcie_link_width", "gauge", (*GPU, "kind"), "PCIe lanes of the link: current, max."),
    Family("plimsoll_gpu_pcie_bytes_total", "counter", (*GPU, "direction"), "Bytes over PCIe, by direction: sent, received."),
    Family("plimsoll_gpu_nvlink_up", "gauge", (*GPU, "link"), "1 if the NVLink is up, else 0."),
    Family("plimsoll_gpu_nvlink_errors_total", "counter", (*GPU, "link", "kind"), "NVLink errors by kind: replay, recovery, recovery_failed, crc, receive."),
    Family("plimsoll_gpu_fabric_state", "gauge", GPU, "State of the GPU in its NVLink fabric: 0 not supported, 1 not started, 2 in progress, 3 completed."),
    Family("plimsoll_gpu_fabric_status", "gauge", GPU, "NVML's return code of the fabric probe: 0 success."),
    Family("plimsoll_gpu_fabric_health_mask", "gauge", GPU, "NVML's mask of fabric health (nvml.h: NVML_GPU_FABRIC_HEALTH_MASK)."),
    Family("plimsoll_gpu_fabric_health", "gauge", GPU, "Fabric health: 0 not supported, 1 healthy, 2 unhealthy, 3 limited capacity."),
    Family("plimsoll_gpu_mig_enabled", "gauge", GPU, "1 if MIG mode is on, else 0."),
    Family("plimsoll_gpu_persistence_mode", "gauge", GPU, "1 if the driver keeps the GPU initialised without clients, else 0."),
    Family("plimsoll_gpu_processes", "gauge", GPU, "Compute processes on the GPU that NVML lets this exporter see."),
    Family("plimsoll_gpu_processes_memory_bytes", "gauge", GPU, "Memory that these processes hold."),
    Family("plimsoll_gpu_recovery_action", "gauge", GPU, "The driver's own recovery action (NVML field 230): 0 none, 1 reset, 2 reboot node, 3 drain P2P, 4 drain and reset, 5 IMEX, 6 bus reset, 7 system reboot."),
    Family("plimsoll_gpu_xid_errors_total", "counter", (*GPU, "xid"), "Xid errors by code, each counted once whoever told of it. Those that cost the GPU are there from the start, as 0, while somebody would notice them."),
    Family("plimsoll_gpu_xid_last_seen_timestamp_seconds", "gauge", (*GPU, "xid"), "Unix time at which this Xid was seen last."),
    Family("plimsoll_gpu_xid_watched", "gauge", GPU, "1 if an Xid of the GPU would be noticed, else 0."),
    Family("plimsoll_gpu_signal_source", "gauge", (*GPU, "signal", "source", "reason"), "Who tells a signal of the GPU: nvml, dcgm, both, none (then with the reason); always 1. Signals are named as their family, without plimsoll_gpu_."),
    Family("plimsoll_gpu_drift", "gauge", (*GPU, "what"), "1 if the GPU is not as this node's standard declares it, else 0, by what: driver_version, ecc, mig, power_limit, clock_sm; unowned_memory: memory is held and no pod has the GPU; allocatable (of the node): the kubelet offers other GPUs than the driver has. Absent: not declared, or unknown."),
    Family("plimsoll_gpu_unowned_memory_bytes", "gauge", GPU, "Memory that is held on the GPU while no pod has it. Absent: a pod has it, or it is not known who has it."),
    Family("plimsoll_node_gpus", "gauge", ("node", "kind"), "GPUs and MIG instances of the node, by kind: driver (the driver has them), allocatable (the kubelet offers them), allocated (containers have them)."),
    Family("plimsoll_engine_info", "gauge", (*ENGINE, "kind"), "The engine and the kind of server that it was recognised as; always 1."),
    Family("plimsoll_engine_gpu", "gauge", (*ENGINE, "uuid", "mig_instance"), "A GPU that the engine runs on; always 1."),
    Family("plimsoll_engine_requests_waiting", "gauge", ENGINE, "Requests that wait to be scheduled."),
    Family("plimsoll_engine_requests_running", "gauge", ENGINE, "Requests in the running batch."),
    Family("plimsoll_engine_kv_cache_usage_ratio", "gauge", ENGINE, "Share of the KV cache that is held."),
    Family("plimsoll_engine_kv_cache_capacity_tokens", "gauge", ENGINE, "Tokens that the KV cache can hold."),
    Family("plimsoll_engine_preemptions_total", "counter", ENGINE, "Requests that were thrown out of the batch for lack of KV cache."),
    Family("plimsoll_engine_prompt_tokens_total", "counter", ENGINE, "Prompt tokens that were processed."),
    Family("plimsoll_engine_generation_tokens_total", "counter", ENGINE, "Tokens that were generated."),
    Family("plimsoll_engine_requests_finished_total", "counter", (*ENGINE, "finished_reason"), "Requests that ended, by the reason that the server gives (abort and error included)."),
    Family("plimsoll_engine_requests_rejected_total", "counter", ENGINE, "Requests that the server refused because its queue was full."),
    Family("plimsoll_engine_requests_per_second", "gauge", ENGINE, "Requests finished per second over the last window."),
    Family("plimsoll_engine_tokens_per_second", "gauge", ENGINE, "Tokens generated per second over the last window."),
    Family("plimsoll_engine_knee_requests", "gauge", ENGINE, "Requests in flight at which a queue forms, as learned. Absent: not learned yet."),
    Family("plimsoll_engine_service_rate_requests_per_second", "gauge", ENGINE, "Requests finished per second while a queue stands, as learned. Absent: not learned yet."),
    Family("plimsoll_engine_saturation_ratio", "gauge", ENGINE, "1 = at the knee; below: headroom; above: queueing. Absent: unknown."),
    Family("plimsoll_engine_capacity_ratio", "gauge", ENGINE, "Part of a whole replica that the engine can be counted for: its worst GPU's capacity, 0 if it is wedged. Absent: unknown."),
    Family("plimsoll_engine_diagnosis", "gauge", (*ENGINE, "cause"), "1 for what the engine is found to suffer from, 0 for the other causes."),
    Family("plimsoll_engine_reading_age_seconds", "gauge", ENGINE, "Age of the engine's last good reading."),
    Family("plimsoll_engine_scrape_success", "gauge", ("endpoint",), "1 if the last scrape of the server gave numbers, else 0."),
    Family("plimsoll_engine_scrape_duration_seconds", "gauge", ("endpoint",), "How long the last scrape of the server took."),
    Family("plimsoll_engine_scrape_errors_total", "counter", ("endpoint", "reason"), "Scrapes of the server that gave no numbers, by reason."),
    Family("plimsoll_collector_success", "gauge", ("collector",), "1 if the collector's last attempt succeeded, else 0."),
    Family("plimsoll_collector_duration_seconds", "gauge", ("collector",), "How long the collector's last attempt took."),
    Family("plimsoll_collector_last_success_timestamp_seconds", "gauge", ("collector",), "Unix time of the collector's last success. Absent: never."),
    Family("plimsoll_overflow_total", "counter", ("kind",), "Things left out of this page because a limit was reached, counted per snapshot, by kind: engine, finished_reason."),
    Family("plimsoll_snapshot_age_seconds", "gauge", (), "Age of the snapshot that this page shows."),
    Family("plimsoll_feed_subscribers", "gauge", (), "Scalers that listen to this node's feed."),
    Family("plimsoll_feed_messages_total", "counter", (), "Messages sent to scalers."),
)

SCALER: tuple[Family, ...] = (
    Family("plimsoll_scaler_required_replicas", "gauge", OBJECT, "Replicas that the model needs, as last answered to KEDA. Absent: unknown."),
    Family("plimsoll_scaler_queue_depth", "gauge", OBJECT, "Requests that wait, over all replicas and the gateway. Absent: unknown."),
    Family("plimsoll_scaler_requests_running", "gauge", OBJECT, "Requests that run, over all replicas. Absent: unknown."),
    Family("plimsoll_scaler_replicas", "gauge", (*OBJECT, "state"), "Replicas that the scaler sees, by state: supplying, impaired (capacity below 1), dead (capacity 0), blind (no fresh reading)."),
    Family("plimsoll_scaler_supply_replicas", "gauge", OBJECT, "What the seen replicas can carry, in whole replicas. Absent: unknown."),
    Family("plimsoll_scaler_active", "gauge", OBJECT, "1 if there is work for the model, else 0. Absent: unknown."),
    Family("plimsoll_scaler_data_age_seconds", "gauge", OBJECT, "Age of the oldest reading that the last decision rests on."),
    Family("plimsoll_scaler_decisions_total", "counter", (*OBJECT, "reason"), "Decisions by the term that decided."),
    Family("plimsoll_scaler_requests_total", "counter", ("method", "code"), "RPCs answered, by method and gRPC status code."),
    Family("plimsoll_scaler_request_duration_seconds", "histogram", ("method",), "Time to answer an RPC."),
    Family("plimsoll_scaler_streams", "gauge", ("method",), "Streams open now."),
    Family("plimsoll_scaler_exporters", "gauge", ("state",), "Exporters by state of their feed: connected, lost."),
)
# fmt: on
