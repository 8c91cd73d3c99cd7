"""Connections whose requests do not begin, or do not end, are closed."""

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

# From the connection, or the first byte of a request, to the end of its
# headers; and how many bytes these may have.
HEAD_SECONDS = 10.0
MOST_HEAD_BYTES = 2**16


class ImpatientProtocol(HttpToolsProtocol):
    """uvicorn's, which would wait for headers for ever."""

    def connection_made(self, transport):
        super().connection_made(transport)
        self._head_bytes = 0
        self._head_timer = None
        self._wait_for_head()

    def data_received(self, data):
        if self._head_timer is not None:
            self._head_bytes += len(data)
        super().data_received(data)
        if self._head_timer is not None and (
            self._head_bytes > MOST_HEAD_BYTES
        ):
            self.transport.close()

    def on_message_begin(self):
        super().on_message_begin()
        self._wait_for_head()

    def on_headers_complete(self):
        self._stop_waiting()
        super().on_headers_complete()

    def connection_lost(self, exc):
        self._stop_waiting()
        super().connection_lost(exc)

    def _wait_for_head(self):
        if self._head_timer is None:
            self._head_bytes = 0
            self._head_timer = self.loop.call_later(
                HEAD_SECONDS, self.transport.close
            )

    def _stop_waiting(self):
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
