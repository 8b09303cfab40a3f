"""The web demo: a page, and the HTTP gateway through which a browser reaches the gRPC server."""
