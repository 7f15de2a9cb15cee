"""A visitor without a browser, over Streamlit's own protocol: protobuf messages on a websocket, as its frontend has them."""

import asyncio
import json
import urllib.request
import uuid
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self
from urllib.parse import urljoin

import websockets
from streamlit.components.v2.bidi_component.main import _make_trigger_id
from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
from streamlit.proto.WidgetStates_pb2 import WidgetState

PATIENCE = 120.0  # seconds for an answer of a busy server
ENDED = {ForwardMsg.FINISHED_SUCCESSFULLY, ForwardMsg.FINISHED_FRAGMENT_RUN_SUCCESSFULLY}
MULTIPART = "pruner-benchmark"


class Failed(Exception):
    """What a visitor would have seen as an error."""


class Tab:
    """One tab of a browser, whose cookie is told: pages are run and what they show is kept, by kind, in the order in which
    it came. `heard` gets every message as it came over the wire."""

    def __init__(self, url: str, cookie: str, heard: Callable[[bytes], None]) -> None:
        self._url, self._cookie, self._heard = url, cookie, heard
        self._pages: dict[str, str] = {}  # their paths and hashes
        self._page, self._query, self._session = "", "", ""
        self._set: dict[str, WidgetState] = {}
        self.shown: list[tuple[str, Any, str]] = []  # kind, element, the part of the page that it belongs to

    async def __aenter__(self) -> Self:
        with await asyncio.to_thread(self._open, "/_stcore/health") as answer:
            self._xsrf = answer.headers["Set-Cookie"].partition("=")[2].partition(";")[0]
        self._socket = await websockets.connect(
            f"{self._url.replace('http', 'ws', 1)}/_stcore/stream",
            subprotocols=[websockets.Subprotocol("streamlit")],
            additional_headers={"Cookie": self._cookie},
            max_size=None,
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._socket.close()

    async def open(self, query: str = "") -> None:
        """Open the address of the server with a query."""
        self._query = query
        await self.run()

    async def go(self, page: str) -> None:
        """To a page by its path; widgets of the page before are gone."""
        self._page = self._pages[page]
        self._set.clear()
        await self.run()

    async def run(self, *triggers: WidgetState, part: str = "") -> None:
        """Run the page, or a part of it, and wait until it is drawn. Raises Failed for what the page shows as an error."""
        message = BackMsg()
        state = message.rerun_script
        state.query_string, state.page_script_hash, state.fragment_id = self._query, self._page, part
        state.widget_states.widgets.extend([*self._set.values(), *triggers])
        await self._socket.send(message.SerializeToString())
        await asyncio.wait_for(self._until(_drawn), PATIENCE)
        for kind, element, _ in self.shown:
            if kind == "exception":
                raise Failed(element.message)
            if kind == "alert" and element.format == element.ERROR:
                raise Failed(element.body)

    async def press(self, label: str) -> None:
        """Click the button with a label."""
        element, part = self.find("button", lambda each: each.label == label and not each.disabled)
        await self.run(WidgetState(id=element.id, trigger_value=True), part=part)

    async def write(self, label: str, text: str) -> None:
        """Write into the field with a label, as it is told by the next run."""
        element, _ = self.find("text_input", lambda each: each.label == label)
        self._set[element.id] = WidgetState(id=element.id, string_value=text)

    async def choose(self, label: str, option: str) -> None:
        """Choose one of the segments of the control with a label, by a word of it."""
        element, part = self.find("button_group", lambda each: each.label == label)
        chosen = next(each.content for each in element.options if option in each.content)
        self._set[element.id] = WidgetState(id=element.id)
        self._set[element.id].string_array_value.data.append(chosen)
        await self.run(part=part)

    async def move(self, component: str, event: str, told: dict[str, Any]) -> None:
        """Have a component of ours, found by a part of its id, tell something, as it does when it is touched."""
        element, part = self.find("bidi_component", lambda each: component in each.id and each.bytes)
        events = json.dumps([{"event": event, "value": told}])
        await self.run(WidgetState(id=_make_trigger_id(element.id, "events"), json_trigger_value=events), part=part)

    async def upload(self, name: str, data: bytes) -> None:
        """Drop a file on the uploader of the page."""
        element, part = self.find("file_uploader", lambda each: True)
        message = BackMsg()
        wanted = message.file_urls_request
        wanted.request_id, wanted.session_id = uuid.uuid4().hex, self._session
        wanted.file_names.append(name)
        await self._socket.send(message.SerializeToString())
        (urls,) = await asyncio.wait_for(self._until(_file_urls), PATIENCE)
        await asyncio.to_thread(self._put, urls.upload_url, name, data)
        state = WidgetState(id=element.id)
        state.file_uploader_state_value.uploaded_file_info.add(
            name=name, size=len(data), file_id=urls.file_id, file_urls=urls
        )
        await self.run(state, part=part)

    async def download(self, label: str) -> bytes:
        """What the download button with a label gives."""
        element, _ = self.find("download_button", lambda each: each.label == label)
        url = element.url
        if element.deferred_file_id:
            message = BackMsg()
            wanted = message.backend_operation_request
            wanted.request_id, wanted.session_id = uuid.uuid4().hex, self._session
            wanted.deferred_file.file_id = element.deferred_file_id
            await self._socket.send(message.SerializeToString())
            url = await asyncio.wait_for(self._until(_deferred_url), PATIENCE)
        return await asyncio.to_thread(self._get, url)

    def find(self, kind: str, wanted: Callable[[Any], bool]) -> tuple[Any, str]:
        """The last element of a kind that is wanted, and the part of the page that it is in. Raises Failed without one."""
        for found, element, part in reversed(self.shown):
            if found == kind and wanted(element):
                return element, part
        raise Failed(f"there is no such {kind}")

    def shows(self, kind: str, text: str) -> bool:
        """Whether an element of a kind says something."""
        return any(found == kind and text in str(element) for found, element, _ in self.shown)

    async def _until(self, ends: Callable[[ForwardMsg], Any]) -> Any:
        while True:
            data = await self._socket.recv()
            assert isinstance(data, bytes)
            self._heard(data)
            message = ForwardMsg.FromString(data)
            self._take(message)
            if ended := ends(message):
                return ended

    def _take(self, message: ForwardMsg) -> None:
        kind = message.WhichOneof("type")
        if kind == "new_session":
            self._session = message.new_session.initialize.session_id or self._session
            self._page = message.new_session.page_script_hash
            parts = set(message.metadata.run.fragment_ids)  # none where the whole page is run
            self.shown = [each for each in self.shown if parts and each[2] not in parts]
        if kind == "navigation":
            self._pages = {page.url_pathname: page.page_script_hash for page in message.navigation.app_pages}
        if kind == "page_info_changed":
            self._query = message.page_info_changed.query_string
        if kind == "delta" and message.delta.WhichOneof("type") == "new_element":
            element = message.delta.new_element
            name = element.WhichOneof("type")
            self.shown.append((name, getattr(element, name), message.delta.fragment_id))

    def _open(self, path: str) -> Any:
        return urllib.request.urlopen(urljoin(self._url, path), timeout=PATIENCE)

    def _get(self, path: str) -> bytes:
        with self._open(path) as answer:
            data: bytes = answer.read()
        self._heard(data)
        return data

    def _put(self, path: str, name: str, data: bytes) -> None:
        begin = f'--{MULTIPART}\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n\r\n'
        request = urllib.request.Request(
            urljoin(self._url, path), begin.encode() + data + f"\r\n--{MULTIPART}--\r\n".encode(), method="PUT"
        )
        request.add_header("Content-Type", f"multipart/form-data; boundary={MULTIPART}")
        request.add_header("Cookie", f"_streamlit_xsrf={self._xsrf}")
        request.add_header("X-Xsrftoken", self._xsrf)
        urllib.request.urlopen(request, timeout=PATIENCE).close()


def _drawn(message: ForwardMsg) -> bool:
    return message.WhichOneof("type") == "script_finished" and message.script_finished in ENDED


def _file_urls(message: ForwardMsg) -> Any:
    return list(message.file_urls_response.file_urls)


def _deferred_url(message: ForwardMsg) -> str:
    if message.backend_operation_response.error_msg:
        raise Failed(message.backend_operation_response.error_msg)
    return message.backend_operation_response.deferred_file.url
