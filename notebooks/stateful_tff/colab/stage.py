"""Shows what the inner kernel shows, at once, each piece as output of the cell that it is from.

Knows nothing of TFF, nor of how cells are sent there.
"""

from __future__ import annotations

import threading

CARRIED = {"stream", "display_data", "update_display_data", "execute_result", "clear_output"}
MOST_CELLS = 1000  # whose late output still finds them


class Stage:
    """What the inner kernel shows, published here by a thread, as output of the cell it is from.

    Args:
        socket: the inner kernel's iopub, of which this thread is the only reader from now on.
        session: what makes its messages.
    """

    def __init__(self, socket, session):
        """Starts the thread."""
        from IPython import get_ipython

        self._socket, self._session, self._shell = socket, session, get_ipython()
        self._cells, self._idle, self._changed = {}, set(), threading.Condition()
        self._is_open = True
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def expect(self, request: dict) -> None:
        """Notes that a request is made for the cell that runs here now."""
        shell = self._shell
        self._cells[request["header"]["msg_id"]] = (
            shell.display_pub.parent_header,
            shell.execution_count,
        )
        if len(self._cells) > MOST_CELLS:
            self._cells.pop(next(iter(self._cells)))

    def has_ended(self, request: dict, within: float) -> bool:
        """Waits, but not long, until everything is shown that a request has led to."""
        name = request["header"]["msg_id"]
        with self._changed:
            if not self._changed.wait_for(lambda: name in self._idle, within):
                return False
            self._idle.clear()
            return True

    def close(self) -> None:
        """Ends the thread and closes the socket."""
        self._is_open = False
        self._thread.join()
        self._socket.close()

    def _read(self) -> None:
        while self._is_open:
            if not self._socket.poll(200):
                continue
            message = self._session.recv(self._socket, copy=False)[1]
            if message["msg_type"] in CARRIED:
                self._publish(message)
            elif message["content"].get("execution_state") == "idle":
                with self._changed:
                    self._idle.add(message["parent_header"].get("msg_id"))
                    self._changed.notify_all()

    def _publish(self, message: dict) -> None:
        publisher, content = self._shell.display_pub, message["content"]
        known = list(self._cells.values())[-1:] or [(publisher.parent_header, None)]
        parent, number = self._cells.get(message["parent_header"].get("msg_id"), known[0])
        if "execution_count" in content:
            content["execution_count"] = number
        publisher.session.send(
            publisher.pub_socket,
            message["msg_type"],
            content,
            metadata=message["metadata"],
            parent=parent,
            ident=message["msg_type"].encode(),
            buffers=message["buffers"],
        )
