"""A stand-in for the Hub that takes uploads as huggingface-hub sends them; its connections can be cut."""

import base64
import hashlib
import json
import re
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import yaml

BASE, REPO = "org/tiny-llama", "me/tiny-dpo"
CARD = "---\nlicense: other\nlicense_name: tiny\nlicense_link: LICENSE\n---\n# Tiny\n"
TOKEN = "hf_stand_in_0123456789"
LICENCES = ["apache-2.0", "mit", "other"]
LARGE = (".safetensors", ".gguf")
"""Files that go to the store of large files; all others are in the commit itself."""


class Hub:
    """What the stand-in holds. `repos`: name -> {file: content}; `store`: large files by SHA-256.

    `asked`: method and path of every request; `sent`: SHA-256 of every large file that arrived whole;
    `commits`: (repository, files, removed files) of every commit. `cut`: how often a
    connection is still cut, by place: "put" in the middle of a large file, "commit" before it is made,
    "answer" after it was made. `forbidden`: repositories that the token may not write. `xet`: a folder in
    which hf_xet stores large files instead of sending them; a repository then holds their SHA-256.
    `during`: what somebody else does with a repository during a request, by route.
    """

    def __init__(self):
        self.repos, self.store, self.private = {}, {}, set()
        self.asked, self.sent, self.commits, self.forbidden = [], [], [], set()
        self.cut = {"put": 0, "commit": 0, "answer": 0}
        self.address, self.xet = "", None
        self.during = {}

    def cuts(self, place):
        """Whether a connection is cut here and now."""
        self.cut[place] -= 1
        return self.cut[place] >= 0

    def head(self, repo):
        """The newest commit of a repository."""
        return hashlib.sha1(repr(sorted(self.repos[repo].items())).encode()).hexdigest()

    def oid(self, repo, name):
        """Git's name of a file, or the SHA-256 of a large one; None if the repository has no such file."""
        content = self.repos[repo].get(name)
        if content is None:
            return None
        if name.endswith(LARGE):
            return hashlib.sha256(content).hexdigest()
        return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def card_data(text):
    """The metadata of a model card."""
    found = re.match(r"---\n(.*?)\n---", text, re.S)
    return yaml.safe_load(found[1]) if found else None


def part(card, heading):
    """A section of a card."""
    return re.search(rf"^## {heading}\n(.*?)(?=^## |\Z)", card, re.S | re.M)[1]


def handler(hub):
    """The handler of a server for this hub."""

    class Handler(BaseHTTPRequestHandler):
        routes = (
            ("GET", r"/api/models/([\w-]+/[\w.-]+)(?:/revision/main)?", "info"),
            ("GET", r"/api/models/([\w-]+/[\w.-]+)/tree/[0-9a-f]{40}", "tree"),
            ("POST", r"/api/repos/create", "create"),
            ("POST", r"/api/validate-yaml", "validate"),
            ("POST", r"/api/models/([\w-]+/[\w.-]+)/preupload/main", "preupload"),
            ("GET", r"/api/models/[\w-]+/[\w.-]+/xet-write-token/main", "xet_token"),
            ("POST", r"/([\w-]+/[\w.-]+)\.git/info/lfs/objects/batch", "batch"),
            ("PUT", r"/store/([0-9a-f]{64})", "put"),
            ("POST", r"/verify", "verify"),
            ("POST", r"/api/models/([\w-]+/[\w.-]+)/commit/main", "commit"),
            ("GET", r"/([\w-]+/[\w.-]+)/resolve/(?:main|[0-9a-f]{40})/(.+)", "file"),
            ("HEAD", r"/([\w-]+/[\w.-]+)/resolve/(?:main|[0-9a-f]{40})/(.+)", "file"),
        )

        def do_GET(self):
            path = self.path.partition("?")[0]
            hub.asked.append(f"{self.command} {path}")
            for method, pattern, name in self.routes:
                if method == self.command and (found := re.fullmatch(pattern, path)):
                    open_to_all = name in ("put", "file")
                    if not open_to_all and self.headers.get("Authorization") != f"Bearer {TOKEN}":
                        return self.answer(401, {"error": "no token"})
                    return getattr(self, name)(*found.groups())
            return self.answer(404, {"error": "no such route"})

        do_HEAD = do_POST = do_PUT = do_GET

        def answer(self, status, body, **headers):
            content = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(status)
            told = {key.replace("_", "-"): value for key, value in headers.items()}
            for key, value in {"Content-Type": "application/json", **told}.items():
                self.send_header(key, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        def body(self, most=None):
            """What was sent, at most so many bytes of it."""
            if length := self.headers.get("Content-Length"):
                return self.rfile.read(min(int(length), most or int(length)))
            content = b""
            while size := int(self.rfile.readline(), 16):
                content += self.rfile.read(size)
                self.rfile.readline()
                if most and len(content) >= most:
                    return content
            self.rfile.readline()
            return content

        def hang_up(self):
            self.close_connection = True
            self.connection.close()

        def info(self, repo):
            if repo not in hub.repos:
                return self.answer(404, {"error": "not found"}, X_Error_Code="RepoNotFound")
            files = hub.repos[repo]
            body = {"id": repo, "sha": hub.head(repo), "siblings": [{"rfilename": name} for name in files]}
            body |= {"private": repo in hub.private, "tags": [], "downloads": 0}
            if "README.md" in files:
                body["cardData"] = card_data(files["README.md"].decode())
            return self.answer(200, body)

        def tree(self, repo):
            files = [
                {"type": "file", "path": name, "size": len(content), "oid": hub.oid(repo, name)}
                for name, content in hub.repos[repo].items()
            ]
            return self.answer(200, files)

        def create(self):
            asked = json.loads(self.body())
            repo = f"{asked['organization']}/{asked['name']}"
            if repo in hub.forbidden:
                return self.answer(403, {"error": "You don't have the rights"})
            if repo in hub.repos:
                return self.answer(409, {"error": "exists", "url": f"{hub.address}/{repo}"})
            hub.repos[repo] = {".gitattributes": b"*.safetensors filter=lfs"}
            if asked.get("visibility") == "private":
                hub.private.add(repo)
            return self.answer(200, {"url": f"{hub.address}/{repo}", "id": repo})

        def validate(self):
            try:
                read = card_data(json.loads(self.body())["content"])
            except yaml.YAMLError as error:
                return self.answer(400, {"errors": [{"message": str(error)}], "warnings": []})
            if read["license"] not in LICENCES:
                message = f'"license" must be one of {LICENCES}'
                return self.answer(400, {"errors": [{"message": message}], "warnings": []})
            return self.answer(200, {"errors": [], "warnings": []})

        def preupload(self, repo):
            hub.during.get("preupload", len)(repo)
            listed = [
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if file["path"].endswith(LARGE) else "regular",
                    "shouldIgnore": False,
                    "oid": hub.oid(repo, file["path"]),
                }
                for file in json.loads(self.body())["files"]
            ]
            return self.answer(200, {"files": listed})

        def batch(self, repo):
            actions = []
            for one in json.loads(self.body())["objects"]:
                told = {"oid": one["oid"], "size": one["size"]}
                if one["oid"] not in hub.store:
                    upload = {"href": f"{hub.address}/store/{one['oid']}", "header": {}}
                    told["actions"] = {"upload": upload, "verify": {"href": f"{hub.address}/verify"}}
                actions.append(told)
            return self.answer(200, {"transfer": "basic", "objects": actions})

        def xet_token(self):
            body = {"accessToken": "t", "exp": 2**33, "casUrl": f"local://{hub.xet}"}
            return self.answer(200, body)

        def put(self, oid):
            if hub.cuts("put"):
                self.body(most=100)
                return self.hang_up()
            content = self.body()
            if hashlib.sha256(content).hexdigest() != oid:
                return self.answer(400, {"error": "another content"})
            hub.store[oid] = content
            hub.sent.append(oid)
            return self.answer(200, {})

        def verify(self):
            one = json.loads(self.body())
            return self.answer(200 if len(hub.store[one["oid"]]) == one["size"] else 400, {})

        def commit(self, repo):
            if hub.cuts("commit"):
                self.body(most=10)
                return self.hang_up()
            lines = [json.loads(line) for line in self.body().splitlines()]
            if lines[0]["value"].get("parentCommit", hub.head(repo)) != hub.head(repo):
                return self.answer(412, {"error": "a commit has happened since"})
            written, removed = {}, []
            for line in lines[1:]:
                own = line["value"]
                if line["key"] == "file":
                    written[own["path"]] = base64.b64decode(own["content"])
                elif line["key"] == "lfsFile":
                    written[own["path"]] = own["oid"].encode() if hub.xet else hub.store[own["oid"]]
                else:
                    removed.append(own["path"])
            assert lines[0]["key"] == "header" and len(written) + len(removed) == len(lines) - 1
            hub.repos[repo] |= written
            for name in removed:
                del hub.repos[repo][name]
            hub.commits.append((repo, sorted(written), removed))
            if hub.cuts("answer"):
                return self.hang_up()
            address = f"{hub.address}/{repo}/commit/{'0' * 40}"
            return self.answer(200, {"commitUrl": address, "commitOid": "0" * 40})

        def file(self, repo, name):
            content = hub.repos.get(repo, {}).get(name)
            if content is None:
                return self.answer(404, {"error": "no such file"}, X_Error_Code="EntryNotFound")
            etag = hashlib.sha1(content).hexdigest()
            return self.answer(200, content, ETag=f'"{etag}"', X_Repo_Commit=hub.head(repo))

        def log_message(self, *arguments):
            pass

    return Handler


@contextmanager
def hub_for_uploads():
    """Serve an empty Hub."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler(hub))
    hub.address = f"http://127.0.0.1:{server.server_port}"
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
