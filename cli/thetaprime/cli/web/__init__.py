"""The demo's page: what is served to a browser, and the gateway by which it reaches a server of ours."""
