"""Pages that somebody may take for an engine's, and that are not: data.

May not be in here: behaviour. A page that has an engine's series as well is read as that engine's: a worker of NVIDIA
Dynamo prints its engine's series beside its own (dynamo_component_*), and only the engine knows its queue; a service
mesh may put a proxy's series on the engine's page.
"""

from exporter.core.kinds.table import Stranger

_GATEWAY = ("gateway", "stands before engines and is none")

STRANGERS: tuple[Stranger, ...] = (
    Stranger(
        "NVIDIA Dynamo's frontend",
        ("dynamo_frontend_inflight_requests", "dynamo_frontend_queued_requests"),
        *_GATEWAY,
        "ai-dynamo/dynamo, docs/observability/metrics.md",
    ),
    Stranger(
        "a worker of NVIDIA Dynamo without its engine's series",
        ("dynamo_component_inflight_requests", "dynamo_component_total_blocks"),
        # In flight is what waits and what runs together: no queue can be told from it.
        "blind",
        "does not tell what waits (SGLang wants --enable-metrics, TensorRT-LLM --publish-events-and-metrics)",
        "ai-dynamo/dynamo, docs/observability and docs/backends",
    ),
    Stranger("LiteLLM", ("litellm_in_flight_requests",), *_GATEWAY, "BerriAI/litellm, docs/proxy/prometheus"),
    Stranger(
        "an inference gateway's endpoint picker",
        (
            "llm_d_epp_flow_control_queue_size",
            "inference_extension_flow_control_queue_size",
            "inference_pool_average_queue_size",
        ),
        *_GATEWAY,
        "llm-d and kubernetes-sigs/gateway-api-inference-extension, metrics guide",
    ),
    Stranger(
        "the vLLM production stack's router",
        ("vllm:num_incoming_requests_total",),
        *_GATEWAY,
        "vllm-project/production-stack, src/vllm_router",
    ),
    Stranger(
        "KEDA's HTTP interceptor",
        ("interceptor_request_concurrency", "interceptor_pending_requests"),
        *_GATEWAY,
        "kedacore/http-add-on, docs/operate.md",
    ),
    Stranger("Envoy", ("envoy_cluster_upstream_rq_active",), *_GATEWAY, "envoyproxy/envoy, cluster statistics"),
)
