"""The gRPC services: messages in, plain functions on a thread, messages out."""
