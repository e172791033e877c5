"""A small copy of the Hugging Face Hub on loopback: the endpoints that huggingface_hub calls, and faults."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

Answer = tuple[int, dict[str, str], bytes]


@dataclass
class Repo:
    """A repository: files by name per commit, and the commit of each branch."""

    private: bool = False
    gated: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)

    def commit(self, files: dict[str, bytes], branch: str = "main") -> str:
        content = b"".join(name.encode() + data for name, data in sorted(files.items()))
        sha = hashlib.sha1(f"{len(self.commits)}".encode() + content).hexdigest()
        self.commits[sha] = files
        self.branches[branch] = sha
        return sha

    def files(self, branch: str = "main") -> dict[str, bytes]:
        return self.commits[self.branches[branch]]


class HubServer:
    """The server. `asked` has method and path of each request, `tokens` what it was sent for a login.

    Attributes:
        repos: Repositories by name.
        faults: Status codes of the next answers to requests whose path contains the key.
        invalid: Message about the model card's metadata; empty if they are valid.
    """

    def __init__(self, token: str) -> None:
        self.repos: dict[str, Repo] = {}
        self.asked: list[tuple[str, str]] = []
        self.faults: dict[str, list[int]] = {}
        self.invalid = ""
        self.objects: dict[str, bytes] = {}
        self.token = token
        site = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                if self.headers.get("Transfer-Encoding") == "chunked":
                    body = b"".join(iter(self._chunk, b""))
                path = unquote(urlsplit(self.path).path)
                site.asked.append((self.command, path))
                status, headers, content = site.answer(self.command, path, body, dict(self.headers.items()))
                self.send_response(status)
                for name, value in {"Content-Length": str(len(content)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(content)

            do_HEAD = do_POST = do_PUT = do_GET  # noqa: N815

            def _chunk(self) -> bytes:
                size = int(self.rfile.readline(), 16)
                data = self.rfile.read(size)
                self.rfile.readline()
                return data

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.server.handle_error = lambda *_: None  # type: ignore[method-assign] # clients that hang up
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def put(self, name: str, files: dict[str, bytes], **facts: Any) -> Repo:
        self.repos[name] = Repo(**facts)
        self.repos[name].commit(files)
        return self.repos[name]

    def answer(self, method: str, path: str, body: bytes, headers: dict[str, str]) -> Answer:
        for part, statuses in self.faults.items():
            if part in path and statuses:
                return _json({"error": "the server has a fault"}, statuses.pop(0))
        login = headers.get("authorization", headers.get("Authorization")) == f"Bearer {self.token}"
        words = path.strip("/").split("/")
        if path == "/api/repos/create":
            return self._create(json.loads(body), login)
        if path == "/api/validate-yaml":
            problems = [{"message": self.invalid}] if self.invalid else []
            return _json({"errors": problems, "warnings": []}, 400 if problems else 200)
        if words[0] == "objects":
            return self._object(method, words[1], body)
        if words[1].endswith(".git"):
            return self._batch(json.loads(body))
        api = words[0] == "api"
        name = "/".join(words[2:4] if api else words[:2])
        repo = self.repos.get(name)
        if repo is None or (repo.private and not login):
            return _error(401 if not login else 404, "RepoNotFound")
        if repo.gated:
            return _error(403, "GatedRepo")
        if not api:
            return _file(repo, words[3], "/".join(words[4:]))
        return self._api(repo, name, words[4:], body, login)

    def _create(self, asked: dict[str, Any], login: bool) -> Answer:
        if not login:
            return _json({"error": "Invalid username or password."}, 401)
        name = f"{asked['organization']}/{asked['name']}"
        known = name in self.repos
        if not known:
            self.put(name, {".gitattributes": b""}, private=asked.get("visibility") == "private")
        return _json({"url": f"{self.url}/{name}", "id": name}, 409 if known else 200)

    def _api(self, repo: Repo, name: str, words: list[str], body: bytes, login: bool) -> Answer:
        action, revision = (*words, "revision", "main")[:2] if words else ("revision", "main")
        if action in ("preupload", "commit", "branch") and not login:
            return _json({"error": "Invalid username or password."}, 401)
        if action == "branch":
            known = revision in repo.branches
            repo.branches.setdefault(revision, repo.branches["main"])
            return _json({"error": "exists"} if known else {}, 409 if known else 200)
        sha = repo.branches.get(revision, revision)
        if sha not in repo.commits:
            return _error(404, "RevisionNotFound")
        files = repo.commits[sha]
        if action == "revision":
            siblings = [{"rfilename": each} for each in files]
            return _json({"id": name, "modelId": name, "sha": sha, "siblings": siblings, "tags": []})
        if action == "tree":
            rows = [
                {"type": "file", "path": each, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
                for each, data in files.items()
            ]
            return _json(rows)
        if action == "preupload":
            asked = json.loads(body)["files"]
            return _json({"files": [_mode(each["path"], files.get(each["path"])) for each in asked]})
        assert action == "commit", words
        return self._commit(repo, name, revision, [json.loads(line) for line in body.splitlines()])

    def _batch(self, asked: dict[str, Any]) -> Answer:
        objects: list[dict[str, Any]] = []
        for each in asked["objects"]:
            url = {"href": f"{self.url}/objects/{each['oid']}"}
            actions = {} if each["oid"] in self.objects else {"actions": {"upload": url}}
            objects.append({**each, **actions})
        return _json({"transfer": "basic", "objects": objects})

    def _object(self, method: str, oid: str, body: bytes) -> Answer:
        assert method == "PUT"
        if hashlib.sha256(body).hexdigest() != oid:
            return _json({"error": "wrong digest"}, 400)
        self.objects[oid] = body
        return _json({})

    def _commit(self, repo: Repo, name: str, branch: str, lines: list[dict[str, Any]]) -> Answer:
        files = dict(repo.files(branch))
        for line in lines[1:]:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.objects[value["oid"]]
            else:
                assert line["key"] == "deletedFile"
                del files[value["path"]]
        sha = repo.commit(files, branch)
        return _json({"success": True, "commitOid": sha, "commitUrl": f"{self.url}/{name}/commit/{sha}"})


def _mode(path: str, before: bytes | None) -> dict[str, Any]:
    large = path.endswith((".safetensors", ".bin", ".onnx"))
    oid = None
    if before is not None:
        plain = b"blob %d\0" % len(before) + before
        oid = hashlib.sha256(before).hexdigest() if large else hashlib.sha1(plain).hexdigest()
    return {"path": path, "uploadMode": "lfs" if large else "regular", "shouldIgnore": False, "oid": oid}


def _file(repo: Repo, revision: str, name: str) -> Answer:
    sha = repo.branches.get(revision, revision)
    data = repo.commits.get(sha, {}).get(name)
    if data is None:
        return _error(404, "EntryNotFound")
    return 200, {"ETag": f'"{hashlib.sha256(data).hexdigest()}"', "X-Repo-Commit": sha}, data


def _json(values: object, status: int = 200) -> Answer:
    return status, {"Content-Type": "application/json"}, json.dumps(values).encode()


def _error(status: int, code: str) -> Answer:
    return status, {"X-Error-Code": code}, b"{}"
