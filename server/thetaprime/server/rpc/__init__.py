"""The gRPC services: they turn messages into plain function calls on threads, and results into messages."""
