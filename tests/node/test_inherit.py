"""A sleeper whose shim, or node, ends: the container after it in the same pod goes on with its memory."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from hack.control import await_phase, await_true, describe, status
from hack.cri import Container
from tests.node.asking import get, images_of
from tests.node.conftest import MakePod, Run, managed
from tests.node.test_failures import flip_a_byte, reasons, restorer_of
from tests.node.test_packets import hibernate_when_quiet

Follow = Callable[..., Container]

# Listens on its pod's own address and on all, holds connections, files and a bound datagram socket.
HOLDING = """
import fcntl, os, signal, socket, struct, sys, threading
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
probe = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
own = socket.inet_ntoa(fcntl.ioctl(probe, 0x8915, struct.pack("256s", b"eth0"))[20:24])
probe.bind((own, 0))
kept = open(os.environ["KEPT"], "a+")
ended = []
def hold(connection):
    while connection.recv(100):
        pass
    ended.append("ended")
def accept(listener):
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=hold, args=(connection,), daemon=True).start()
everywhere = socket.create_server(("", 7000))
threading.Thread(target=accept, args=(everywhere,), daemon=True).start()
listener = socket.create_server((own, 8080))
print("listening", flush=True)
count = 0
while True:
    connection, _ = listener.accept()
    request = connection.recv(4096)
    count += 1
    kept.write("x")
    kept.flush()
    now = socket.inet_ntoa(fcntl.ioctl(probe, 0x8915, struct.pack("256s", b"eth0"))[20:24])
    good = listener.getsockname()[0] == probe.getsockname()[0] == now and now != own
    body = f"{count} {os.fstat(kept.fileno()).st_size} {'moved' if good else 'there'} {len(ended)}"
    connection.sendall(f"HTTP/1.0 200 OK\\r\\nContent-Length: {len(body)}\\r\\n\\r\\n{body}".encode())
    connection.close()
"""
CHANGES = """
import os
os.makedirs("/made/deep")
open("/made/deep/file", "w").write("mine")
os.link("/made/deep/file", "/made/twin")
os.symlink("deep/file", "/made/link")
os.mkfifo("/made/fifo", 0o640)
os.chown("/made/fifo", 7, 8)
os.setxattr("/made/deep/file", "user.colour", b"green")
open("/made/hole", "w").close()
os.truncate("/made/hole", 1 << 30)
os.unlink("/app/service.py")
"""
PROVE = """
import os, stat
assert open("/made/deep/file").read() == open("/made/link").read() == "mine"
assert os.stat("/made/deep/file").st_ino == os.stat("/made/twin").st_ino
about = os.stat("/made/fifo")
assert stat.S_ISFIFO(about.st_mode) and (about.st_mode & 0o777, about.st_uid, about.st_gid) == (0o640, 7, 8)
assert os.getxattr("/made/deep/file", "user.colour") == b"green"
assert os.stat("/made/hole").st_size == 1 << 30 and os.stat("/made/hole").st_blocks == 0
assert not os.path.exists("/app/service.py")
"""


def lose(app: Container) -> None:
    """Its shim ends, and everything it served."""
    os.kill(describe(app.pod).shim_pid, signal.SIGKILL)
    await_true(lambda: app.status().state == 2, "containerd knows that the container has ended")
    app.pod.stop()


@pytest.fixture
def follow(make_pod: MakePod) -> Follow:
    """Starts what kubelet would after that: the same container in a new sandbox of the same pod."""

    def start(app: Container, image: str = "web", *, attempt: int = 1, **wanted: object) -> Container:
        lose(app)
        pod = make_pod(app.pod.name, uid=app.pod.uid, attempt=attempt, annotations=managed("app"))
        return pod.start("app", image, **{"ports": [8080], "restarts": attempt, **wanted})

    return start


def holding(run: Run, kept: str = "/kept") -> Container:
    """A container that holds what depends on its place."""
    return run("web", command=["/usr/bin/python3", "-c", HOLDING], env={"KEPT": kept})


def python(app: Container, code: str) -> None:
    answer = app.exec("/usr/bin/python3", "-c", code)
    assert answer.exit_code == 0, answer.stderr.decode()


def test_it_sleeps_on_with_memory_and_files_and_wakes_by_a_packet(run: Run, follow: Follow) -> None:
    app = run()
    assert [get(app), get(app)] == ["1", "2"]
    python(app, CHANGES)
    hibernate_when_quiet(app)
    before = status(app)
    again = follow(app)
    now = status(again)
    assert (now.phase, now.sleeps, now.failures) == ("SCALED_DOWN", before.sleeps, [])
    assert (again.status().state, again.pod.addresses != app.pod.addresses) == (1, True)
    assert get(again) == "3"
    get(again, "/log?n=1")
    again.await_line("line 1")
    assert (status(again).phase, status(again).wakes) == ("RUNNING", before.wakes + 1)
    python(again, PROVE)
    hibernate_when_quiet(again)
    assert get(again) == "4"
    again.stop()
    assert again.status().exit_code == 0


def test_it_wakes_by_an_exec_and_can_be_ended_asleep(run: Run, follow: Follow) -> None:
    app = run()
    assert get(app) == "1"
    hibernate_when_quiet(app)
    again = follow(app)
    python(again, "print(1)")
    assert get(again) == "2"
    hibernate_when_quiet(again)
    third = follow(again, attempt=2)
    assert status(third).phase == "SCALED_DOWN"
    third.remove()
    assert images_of(third) == []


def test_it_is_lost_again_and_again_before_it_wakes(run: Run, follow: Follow) -> None:
    app = run()
    assert get(app) == "1"
    hibernate_when_quiet(app)
    for attempt in (1, 2, 3):
        app = follow(app, attempt=attempt)
        assert status(app).phase == "SCALED_DOWN"
    await_true(lambda: len(images_of(app)) == 1, "what it came from is removed")
    assert get(app) == "2"


def test_sockets_move_to_the_new_address_and_connections_are_closed(run: Run, follow: Follow) -> None:
    app = holding(run)
    with socket.create_connection((app.pod.addresses[0], 7000), timeout=30):
        assert get(app) == "1 1 there 0"
        hibernate_when_quiet(app)
        again = follow(app, command=["/usr/bin/python3", "-c", HOLDING], env={"KEPT": "/kept"})
    assert status(again).failures == []
    assert get(again) == "2 2 moved 1"
    socket.create_connection((again.pod.addresses[0], 7000), timeout=30).close()
    hibernate_when_quiet(again)
    assert get(again).startswith("3 3 moved")


def fresh(again: Container) -> list[str]:
    """It runs, and has said why it began anew; its images, all put aside."""
    again.await_line("listening")
    assert (status(again).phase, status(again).sleeps) == ("RUNNING", 0)
    (said,) = reasons(again, "fresh start")
    names = [image.name for image in images_of(again)]
    assert all(name.endswith(".quarantined") for name in names)
    assert "its memory is kept in" in said or not names
    return [said, *names]


def test_a_file_in_memory_that_is_gone_means_a_fresh_start(run: Run, follow: Follow) -> None:
    app = holding(run, kept="/dev/shm/kept")
    get(app)
    hibernate_when_quiet(app)
    again = follow(app, command=["/usr/bin/python3", "-c", HOLDING], env={"KEPT": "/dev/shm/kept"})
    said, _ = fresh(again)
    assert "has /dev/shm/kept open, which is lost" in said
    assert get(again) == "1 1 there 0"


@pytest.mark.parametrize(
    ("wanted", "sentence"),
    [
        pytest.param({"args": ["-v"]}, "its command is another", id="another command"),
        pytest.param(
            {"image": "holder"}, "its image is another (docker.io/local/web:1 then", id="another image"
        ),
    ],
)
def test_another_container_by_the_same_name_starts_fresh(
    run: Run, follow: Follow, wanted: dict[str, str], sentence: str
) -> None:
    app = run()
    hibernate_when_quiet(app)
    said, name = fresh(follow(app, **wanted))
    assert sentence in said
    assert name == "1.quarantined"


def test_a_damaged_image_is_found_at_the_wake(run: Run, follow: Follow) -> None:
    app = run()
    assert get(app) == "1"
    hibernate_when_quiet(app)
    flip_a_byte(images_of(app)[0])
    again = follow(app)
    assert status(again).phase == "SCALED_DOWN"
    assert get(again) == "1", "it has no memory of before"
    assert any("damaged" in reason for reason in reasons(again, "fresh start"))


def test_what_ran_when_it_was_lost_starts_fresh_and_says_so(run: Run, follow: Follow) -> None:
    app = run()
    assert get(app) == "1"
    again = follow(app)
    said, *_ = fresh(again)
    assert "it was RUNNING when its node or its shim ended" in said
    assert get(again) == "1"
    hibernate_when_quiet(again)
    assert get(again) == "2"


def test_a_container_that_is_still_served_is_nobodys_to_go_on_with(run: Run, make_pod: MakePod) -> None:
    app = run()
    assert get(app) == "1"
    hibernate_when_quiet(app)
    place = "/kubepods/besteffort/other"
    pod = make_pod(app.pod.name, uid=app.pod.uid, attempt=1, annotations=managed("app"), cgroup_parent=place)
    other = pod.start("app", "web", ports=[8080], restarts=1)
    other.await_line("listening")
    assert ["still being served" in each for each in reasons(other, "fresh start")] == [True]
    assert (get(other), get(app)) == ("1", "2")


def test_packets_that_come_before_its_start_has_returned_wake_it(run: Run, follow: Follow) -> None:
    app = run()
    assert get(app) == "1"
    hibernate_when_quiet(app)
    assert Path(f"/proc/{restorer_of(app)}").exists()
    again = follow(app)
    with socket.socket() as client:
        client.setblocking(False)
        client.connect_ex((again.pod.addresses[0], 8080))
        await_phase(again, "RUNNING")
    assert get(again) == "2"
