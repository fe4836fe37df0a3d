"""A stand-in for the Hub: a local server that gives data sets as huggingface-hub asks for them."""

import hashlib
import json
import re
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread


@contextmanager
def local_hub(sets):
    """Serve `sets`, {"org/name": {revision: {file: bytes}}}; the address, and the requests so far.

    The commit of a revision is the hash of its name.
    """
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(f"{self.command} {self.path}")
            path = self.path.partition("?")[0].replace("%2F", "/")
            if found := re.fullmatch(r"/api/datasets/([\w-]+/[\w.-]+)(?:/revision/(.+))?", path):
                return self._info(found[1], found[2] or "main")
            if found := re.fullmatch(r"/api/datasets/([\w-]+/[\w.-]+)/tree/(.+)", path):
                return self._tree(found[1], found[2])
            if found := re.fullmatch(r"/datasets/([\w-]+/[\w.-]+)/resolve/([0-9a-f]{40})/(.+)", path):
                return self._file(*found.groups())
            return self._send(404, b"", {"X-Error-Code": "RepoNotFound"})

        do_HEAD = do_GET

        def _files(self, repo, revision):
            for name, files in sets.get(repo, {}).items():
                if revision in (name, commit(name)):
                    return commit(name), files
            return None, None

        def _info(self, repo, revision):
            sha, files = self._files(repo, revision)
            if not sha:
                code = "RevisionNotFound" if repo in sets else "RepoNotFound"
                return self._send(404, b"{}", {"X-Error-Code": code})
            listed = [{"rfilename": name} for name in files]
            body = {"id": repo, "sha": sha, "siblings": listed, "private": False, "tags": [], "downloads": 0}
            return self._send(200, json.dumps(body).encode(), {"Content-Type": "application/json"})

        def _tree(self, repo, revision):
            _, files = self._files(repo, revision)
            listed = [
                {"type": "file", "path": name, "size": len(held), "oid": hashlib.sha1(held).hexdigest()}
                for name, held in files.items()
            ]
            return self._send(200, json.dumps(listed).encode(), {"Content-Type": "application/json"})

        def _file(self, repo, revision, name):
            sha, files = self._files(repo, revision)
            content = files[name]
            etag = hashlib.sha1(content).hexdigest()
            return self._send(200, content, {"X-Repo-Commit": sha, "ETag": f'"{etag}"'})

        def _send(self, status, body, headers):
            self.send_response(status)
            for key, value in {**headers, "Content-Length": len(body)}.items():
                self.send_header(key, str(value))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def log_message(self, *arguments):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()


def commit(revision):
    """The commit that a revision names."""
    return hashlib.sha1(revision.encode()).hexdigest()
