"""Ollama's own protocol, for its own clients: what it has dropped is done here, the rest may go
through to a server."""
