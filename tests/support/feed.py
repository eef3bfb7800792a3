"""What a scaler would hear from an exporter: the first message of its feed, which is the node's whole state."""

import grpc

from exporter.pb import signals_pb2 as pb
from exporter.pb.signals_pb2_grpc import SignalsStub


def listen(address: str, seconds: float = 5.0) -> pb.NodeSignals:
    with grpc.insecure_channel(address) as channel:
        stream = SignalsStub(channel).Watch(pb.WatchRequest(client="test"), timeout=seconds)
        message = next(iter(stream))
        stream.cancel()
        return message
