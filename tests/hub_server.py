"""A Hub in memory on loopback: as much of the Hub's HTTP interface as the real client needs to push and to pull."""

import base64
import contextlib
import hashlib
import json
import os
import socket
import tempfile
import threading
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from functools import cached_property, partial
from urllib.parse import parse_qs

import uvicorn
import yaml
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

LARGE = (".safetensors", ".parquet", ".png", ".bin")
REFUSED = 507  # a status that the client does not try again after


class HubError(Exception):
    """An answer other than success; the client tells a missing repository, revision and file apart by its code."""

    def __init__(self, status: int, code: str):
        self.response = JSONResponse(
            {"error": code}, status, headers={"X-Error-Code": code, "X-Error-Message": code, "Connection": "close"}
        )


@dataclass(frozen=True)
class StoredFile:
    content: bytes
    large: bool

    @cached_property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @cached_property
    def git_oid(self) -> str:
        return hashlib.sha1(b"blob %d\0" % len(self.content) + self.content).hexdigest()

    def listed(self, path: str) -> dict:
        entry = {"type": "file", "path": path, "size": len(self.content), "oid": self.git_oid}
        large = {"oid": self.sha256, "size": len(self.content), "pointerSize": 134}
        return {**entry, "lfs": large} if self.large else entry


@dataclass
class Repository:
    private: bool
    commits: dict[str, dict[str, StoredFile]] = field(default_factory=dict)
    history: dict[str, tuple[str | None, str]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)

    def commit(self, branch: str, files: dict[str, StoredFile], message: str) -> str:
        parent = self.branches.get(branch)
        named = "".join(f"{path} {file.sha256}" for path, file in files.items())
        sha = hashlib.sha1(f"{len(self.commits)} {id(self)} {named}".encode()).hexdigest()
        self.commits[sha], self.history[sha], self.branches[branch] = files, (parent, message), sha
        return sha

    def sha(self, revision: str) -> str:
        sha = self.branches.get(revision) or self.tags.get(revision) or revision
        if sha not in self.commits:
            raise HubError(404, "RevisionNotFound")
        return sha


class Hub:
    """
    The server. Writing needs `token`, and so does reading what is private.

    `files` and `messages` show what a repository holds, `requests` what was asked for, and `failing` breaks an upload
    or a download in the middle.
    """

    token = "hf_loopback"

    def __init__(self):
        self.socket = socket.socket()
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(("127.0.0.1", 0))
        self.address = self.socket.getsockname()
        self.endpoint = f"http://127.0.0.1:{self.address[1]}"
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.objects: dict[str, bytes] = {}
        self.requests: list[tuple[str, str, str]] = []
        self._fault: tuple[str, str, int] | None = None
        self._broken = self._once = False

    def start(self) -> None:
        if self.socket.fileno() < 0:
            self.socket = socket.socket()
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self.socket.bind(self.address)
        config = uvicorn.Config(self._application(), log_level="critical", lifespan="off")
        self._server = uvicorn.Server(config)
        self.socket.listen()
        self._thread = threading.Thread(target=self._server.run, args=([self.socket],), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join()
        self.socket.close()

    def environment(self, home: str, token: bool = True) -> dict[str, str]:
        """Variables of a client of this Hub whose cache is `home`; they must be set before it is imported."""
        client = {"HF_ENDPOINT": self.endpoint, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1"}
        return {**client, "HF_TOKEN": self.token} if token else client

    def files(self, name: str, revision: str = "main", kind: str = "models") -> dict[str, bytes]:
        repository = self.repositories[kind, name]
        return {path: file.content for path, file in repository.commits[repository.sha(revision)].items()}

    def messages(self, name: str, revision: str = "main", kind: str = "models") -> list[str]:
        """Titles of the commits, newest first."""
        return [message for _, message in self._history(self.repositories[kind, name], revision)]

    @contextlib.contextmanager
    def failing(self, method: str, path: str, after: int, once: bool = False) -> Iterator[None]:
        """Cuts the first request with `path` in its address after so many bytes of body, and refuses later ones."""
        self._fault, self._broken, self._once = (method, path, after), False, once
        try:
            yield
        finally:
            self._fault = None
        assert self._broken, f"no {method} of {path} came"

    def _breaks(self, request: Request) -> int | None:
        """After how many bytes this request is to break; None for one that is served."""
        self.requests.append((request.method, request.url.path, request.headers.get("range", "")))
        if self._fault is None or request.method != self._fault[0] or self._fault[1] not in request.url.path:
            return None
        if self._broken and self._once:
            return None
        if self._broken:
            raise HubError(REFUSED, "Broken")
        self._broken = True
        return self._fault[2]

    def _application(self) -> Starlette:
        api = "/api/{kind}/{org}/{name}"
        routes = [
            Route("/api/whoami-v2", self._whoami),
            Route("/api/validate-yaml", self._validate_yaml, methods=["POST"]),
            Route("/api/repos/create", self._create, methods=["POST"]),
            Route("/api/repos/delete", self._delete, methods=["DELETE"]),
            Route(f"{api}/preupload/{{revision}}", self._preupload, methods=["POST"]),
            Route(f"{api}/commit/{{revision}}", self._commit, methods=["POST"]),
            Route(f"{api}/paths-info/{{revision}}", self._paths, methods=["POST"]),
            Route(f"{api}/branch/{{ref}}", partial(self._ref, "branches"), methods=["POST", "DELETE"]),
            Route(f"{api}/tag/{{ref}}", partial(self._ref, "tags"), methods=["POST", "DELETE"]),
            Route(f"{api}/refs", self._refs),
            Route(f"{api}/commits/{{revision}}", self._commits),
            Route(f"{api}/tree/{{revision}}", self._tree),
            Route(f"{api}/tree/{{revision}}/{{path:path}}", self._tree),
            Route(f"{api}/revision/{{revision}}", self._info),
            Route(api, self._info),
            Route("/objects/{oid}", self._upload, methods=["PUT"]),
            Route("/verify", self._verify, methods=["POST"]),
        ]
        for kind, prefix in (("models", ""), ("datasets", "/datasets"), ("spaces", "/spaces")):
            batch = f"{prefix}/{{org}}/{{name}}.git/info/lfs/objects/batch"
            routes.append(Route(batch, partial(self._batch, kind), methods=["POST"]))
            routes.append(
                Route(f"{prefix}/{{org}}/{{name}}/resolve/{{revision}}/{{path:path}}", partial(self._resolve, kind))
            )
        handlers = {HubError: lambda request, error: error.response}
        return Starlette(routes=routes, exception_handlers=handlers)

    def _address(self, kind: str, name: str) -> str:
        return f"{self.endpoint}/{name}" if kind == "models" else f"{self.endpoint}/{kind}/{name}"

    def _authorised(self, request: Request) -> bool:
        given = request.headers.get("authorization")
        if given not in (None, f"Bearer {self.token}"):
            raise HubError(401, "Invalid credentials in Authorization header")
        return given is not None

    def _repository(self, request: Request, kind: str | None = None, write: bool = False) -> Repository:
        known = self._authorised(request)
        named = request.path_params
        repository = self.repositories.get((kind or named["kind"], f"{named['org']}/{named['name']}"))
        if repository is None or (repository.private and not known):
            raise HubError(404 if known else 401, "RepoNotFound")
        if write and not known:
            raise HubError(401, "Unauthorized")
        return repository

    async def _whoami(self, request: Request) -> Response:
        if not self._authorised(request):
            raise HubError(401, "Unauthorized")
        return JSONResponse({"type": "user", "name": "org", "orgs": [], "auth": {"type": "access_token"}})

    async def _validate_yaml(self, request: Request) -> Response:
        try:
            _metadata((await request.json())["content"].encode())
        except yaml.YAMLError as error:
            return JSONResponse({"errors": [{"message": str(error)}], "warnings": []}, 400)
        return JSONResponse({"errors": [], "warnings": []})

    async def _create(self, request: Request) -> Response:
        if not self._authorised(request):
            raise HubError(401, "Unauthorized")
        asked = await request.json()
        kind, name = f"{asked.get('type') or 'model'}s", f"{asked.get('organization') or 'org'}/{asked['name']}"
        exists = (kind, name) in self.repositories
        if not exists:
            repository = Repository(private=asked.get("visibility") == "private")
            repository.commit("main", {}, "initial commit")
            self.repositories[kind, name] = repository
        return JSONResponse({"url": self._address(kind, name), "id": name}, 409 if exists else 200)

    async def _delete(self, request: Request) -> Response:
        asked = await request.json()
        request.path_params.update(org=asked["organization"], name=asked["name"])
        kind = f"{asked.get('type') or 'model'}s"
        self._repository(request, kind, write=True)
        del self.repositories[kind, f"{asked['organization']}/{asked['name']}"]
        return JSONResponse({})

    async def _preupload(self, request: Request) -> Response:
        repository = self._repository(request, write=True)
        present = repository.commits[repository.sha(request.path_params["revision"])]
        answers = []
        for file in (await request.json())["files"]:
            path = file["path"]
            answer = {"path": path, "uploadMode": "lfs" if path.endswith(LARGE) else "regular", "shouldIgnore": False}
            if path in present:
                answer["oid"] = present[path].sha256 if present[path].large else present[path].git_oid
            answers.append(answer)
        return JSONResponse({"files": answers})

    async def _batch(self, kind: str, request: Request) -> Response:
        self._repository(request, kind, write=True)
        objects = []
        for wanted in (await request.json())["objects"]:
            entry = {"oid": wanted["oid"], "size": wanted["size"]}
            if wanted["oid"] not in self.objects:
                places = {"upload": f"/objects/{wanted['oid']}", "verify": "/verify"}
                entry["actions"] = {name: {"href": self.endpoint + path} for name, path in places.items()}
            objects.append(entry)
        return JSONResponse({"transfer": "basic", "objects": objects})

    async def _upload(self, request: Request) -> Response:
        breaks, content = self._breaks(request), bytearray()
        async for chunk in request.stream():
            content += chunk
            if breaks is not None and len(content) >= breaks:
                raise HubError(REFUSED, "Broken")
        if hashlib.sha256(content).hexdigest() != request.path_params["oid"]:
            raise HubError(400, "ChecksumMismatch")
        self.objects[request.path_params["oid"]] = bytes(content)
        return Response()

    async def _verify(self, request: Request) -> Response:
        wanted = await request.json()
        if len(self.objects.get(wanted["oid"], b"")) != wanted["size"]:
            raise HubError(404, "ObjectNotFound")
        return JSONResponse({})

    async def _commit(self, request: Request) -> Response:
        repository, branch = self._repository(request, write=True), request.path_params["revision"]
        body = await request.body()
        if self._breaks(request) is not None:
            raise HubError(REFUSED, "Broken")
        if branch not in repository.branches:
            raise HubError(404, "RevisionNotFound")
        files, header = dict(repository.commits[repository.branches[branch]]), {}
        for line in body.splitlines():
            operation = json.loads(line)
            value = operation["value"]
            match operation["key"]:
                case "header":
                    header = value
                case "file":
                    files[value["path"]] = StoredFile(base64.b64decode(value["content"]), large=False)
                case "lfsFile":
                    if value["oid"] not in self.objects:
                        raise HubError(400, "ObjectNotFound")
                    files[value["path"]] = StoredFile(self.objects[value["oid"]], large=True)
                case "deletedFile":
                    del files[value["path"]]
                case "deletedFolder":
                    files = {path: file for path, file in files.items() if not path.startswith(value["path"])}
        if header.get("parentCommit") not in (None, repository.branches[branch]):
            raise HubError(412, "ParentCommitMismatch")
        sha = repository.commit(branch, files, header["summary"])
        named = request.path_params
        address = self._address(named["kind"], f"{named['org']}/{named['name']}")
        return JSONResponse({"success": True, "commitOid": sha, "commitUrl": f"{address}/commit/{sha}"})

    async def _ref(self, field_name: str, request: Request) -> Response:
        repository, ref = self._repository(request, write=True), request.path_params["ref"]
        refs = getattr(repository, field_name)
        if request.method == "DELETE":
            if refs.pop(ref, None) is None:
                raise HubError(404, "RevisionNotFound")
            return JSONResponse({})
        asked = await request.json()
        name, start = (asked["tag"], ref) if "tag" in asked else (ref, asked.get("startingPoint", "main"))
        if name in refs:
            raise HubError(409, "Conflict")
        refs[name] = repository.sha(start)
        return JSONResponse({})

    async def _refs(self, request: Request) -> Response:
        repository = self._repository(request)
        named = {"branches": ("heads", repository.branches), "tags": ("tags", repository.tags)}
        listed = {
            key: [{"name": name, "ref": f"refs/{kind}/{name}", "targetCommit": sha} for name, sha in refs.items()]
            for key, (kind, refs) in named.items()
        }
        return JSONResponse({**listed, "converts": []})

    @staticmethod
    def _history(repository: Repository, revision: str) -> list[tuple[str, str]]:
        sha, found = repository.sha(revision), []
        while sha is not None:
            parent, message = repository.history[sha]
            found.append((sha, message))
            sha = parent
        return found

    async def _commits(self, request: Request) -> Response:
        history = self._history(self._repository(request), request.path_params["revision"])
        common = {"message": "", "date": "2026-01-01T00:00:00.000Z", "authors": []}
        return JSONResponse([{"id": sha, "title": message, **common} for sha, message in history])

    async def _info(self, request: Request) -> Response:
        repository = self._repository(request)
        sha = repository.sha(request.path_params.get("revision", "main"))
        files = repository.commits[sha]
        card = _metadata(files["README.md"].content) if "README.md" in files else {}
        siblings = []
        for path, file in files.items():
            sibling = {"rfilename": path}
            if "blobs" in request.query_params:
                listed = file.listed(path)
                sibling |= {"size": listed["size"], "blobId": listed["oid"]}
                if file.large:
                    sibling["lfs"] = {"sha256": file.sha256, **listed["lfs"]}
            siblings.append(sibling)
        return JSONResponse(
            {
                "id": f"{request.path_params['org']}/{request.path_params['name']}",
                "sha": sha,
                "private": repository.private,
                "siblings": siblings,
                "tags": card.get("tags", []),
                "cardData": card,
                "pipeline_tag": card.get("pipeline_tag"),
                "library_name": card.get("library_name"),
            }
        )

    async def _tree(self, request: Request) -> Response:
        repository = self._repository(request)
        files = repository.commits[repository.sha(request.path_params["revision"])]
        folder = request.path_params.get("path", "").strip("/")
        inside = {path: file for path, file in files.items() if not folder or path.startswith(f"{folder}/")}
        if folder and not inside:
            raise HubError(404, "EntryNotFound")
        recursive = request.query_params.get("recursive", "").lower() == "true"
        depth = folder.count("/") + 1 if folder else 0
        entries = [file.listed(path) for path, file in inside.items() if recursive or path.count("/") == depth]
        parts = [path.split("/") for path in inside]
        levels = {"/".join(path[:end]) for path in parts for end in range(depth + 1, len(path))}
        folders = sorted(level for level in levels if recursive or level.count("/") == depth)
        return JSONResponse([*map(_listed_folder, folders), *entries])

    async def _paths(self, request: Request) -> Response:
        repository = self._repository(request)
        files = repository.commits[repository.sha(request.path_params["revision"])]
        asked = parse_qs((await request.body()).decode()).get("paths", [])
        found = [files[path].listed(path) for path in asked if path in files]
        folders = [folder for folder in asked if any(path.startswith(f"{folder}/") for path in files)]
        return JSONResponse(found + [_listed_folder(folder) for folder in folders])

    async def _resolve(self, kind: str, request: Request) -> Response:
        repository = self._repository(request, kind)
        breaks = self._breaks(request)
        sha, path = repository.sha(request.path_params["revision"]), request.path_params["path"]
        if path not in repository.commits[sha]:
            missing = HubError(404, "EntryNotFound")
            missing.response.headers["X-Repo-Commit"] = sha
            raise missing
        file = repository.commits[sha][path]
        content, status = file.content, 200
        headers = {"X-Repo-Commit": sha, "ETag": f'"{file.sha256 if file.large else file.git_oid}"'}
        if file.large:
            headers |= {"X-Linked-Etag": f'"{file.sha256}"', "X-Linked-Size": str(len(content))}
        if asked := request.headers.get("range"):
            first, last = (int(bound) if bound else None for bound in asked.removeprefix("bytes=").split("-"))
            last = len(content) - 1 if last is None else min(last, len(content) - 1)
            headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
            content, status = content[first : last + 1], 206
        headers["Content-Length"] = str(len(content))
        return StreamingResponse(
            _stream(content if breaks is None else content[:breaks]), status, headers, "application/octet-stream"
        )


async def _stream(content: bytes) -> AsyncIterator[bytes]:
    yield content


def _listed_folder(path: str) -> dict:
    return {"type": "directory", "path": path, "size": 0, "oid": hashlib.sha1(path.encode()).hexdigest()}


def _metadata(card: bytes) -> dict:
    """The YAML at the head of a README."""
    parts = card.decode().split("---\n", 2)
    return yaml.safe_load(parts[1]) if len(parts) == 3 and not parts[0] else {}


# The client reads its settings when it is imported. conftest imports this first, so that the tests know no other Hub.
CACHE = tempfile.TemporaryDirectory()
LOOPBACK = Hub()
os.environ |= LOOPBACK.environment(CACHE.name)
