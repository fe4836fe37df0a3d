"""Fixtures of the jobs that ask a server."""

import pytest

from ..support.openai_server import OpenAIServer


@pytest.fixture
def serve():
    """Start a server with these answers; it ends with the test."""
    running = []

    def start(answer, **more):
        running.append(OpenAIServer(answer, **more).__enter__())
        return running[-1]

    yield start
    for server in running:
        server.__exit__()
