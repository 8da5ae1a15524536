"""What containerd expects of names and numbers, worked out from its API by hand."""

import pytest

from architect.ttrpc import cgroup1, cgroup2, codec, containerd, runtime_info
from architect.ttrpc.codec import DecodeError, decode, encode


def test_an_exit_event_has_the_bytes_containerd_reads() -> None:
    event = containerd.TaskExit(
        container_id="c", id="e", pid=7, exit_status=137, exited_at=containerd.Timestamp(seconds=1, nanos=2)
    )
    assert encode(event) == bytes.fromhex("0a0163 120165 1807 208901 2a04 08011002")


def test_an_envelope_names_topic_and_type_as_containerd_does() -> None:
    envelope = containerd.envelope("k8s.io", containerd.TaskOOM("c"), ns=5_000_000_006)
    assert envelope == containerd.Envelope(
        timestamp=containerd.Timestamp(5, 6),
        namespace="k8s.io",
        topic="/tasks/oom",
        event=containerd.Any("containerd.events.TaskOOM", b"\x0a\x01c"),
    )
    assert decode(containerd.ForwardRequest, encode(containerd.ForwardRequest(envelope))).envelope == envelope


def test_every_event_has_a_topic() -> None:
    events = {
        cls for cls in vars(containerd).values() if isinstance(cls, type) and cls.__name__.startswith("Task")
    }
    assert events - {containerd.TaskIO} == set(containerd.TOPICS)


def test_unpacking_takes_the_type_it_is_asked_for_and_no_other() -> None:
    packed = containerd.pack(containerd.Options(binary_name="runc"))
    assert packed.type_url == "containerd.runc.v1.Options"
    assert containerd.unpack(packed, containerd.Options).binary_name == "runc"
    with_host = containerd.Any("type.googleapis.com/" + packed.type_url, packed.value)
    assert containerd.unpack(with_host, containerd.Options).binary_name == "runc"
    with pytest.raises(DecodeError, match=r"runtimeoptions\.v1\.Options"):
        containerd.unpack(packed, containerd.RuntimeOptions)


def test_moments_before_and_after_the_epoch_survive() -> None:
    for ns in (0, 1, -1, 1_700_000_000_123_456_789):
        assert containerd.timestamp_ns(decode(containerd.Timestamp, encode(containerd.timestamp(ns)))) == ns
    assert containerd.timestamp_ns(None) == 0


@pytest.mark.parametrize(
    ("cls", "name"),
    [
        (cgroup1.Metrics, "io.containerd.cgroups.v1.Metrics"),
        (cgroup2.Metrics, "io.containerd.cgroups.v2.Metrics"),
        (containerd.RuntimeOptions, "runtimeoptions.v1.Options"),
        (containerd.ProcessDetails, "containerd.runc.v1.ProcessDetails"),
        (runtime_info.CheckpointOptions, "containerd.runc.v1.CheckpointOptions"),
        (containerd.Timestamp, "google.protobuf.Timestamp"),
    ],
)
def test_types_that_travel_by_name_have_containerds_names(cls: type[object], name: str) -> None:
    assert codec.full_name(cls) == name


def test_the_task_service_is_complete() -> None:
    assert set(containerd.TASK_METHODS) == {
        *(
            "Create",
            "Start",
            "Exec",
            "State",
            "Pids",
            "Pause",
            "Resume",
            "Kill",
            "ResizePty",
            "CloseIO",
            "Update",
        ),
        *("Stats", "Wait", "Delete", "Connect", "Shutdown", "Checkpoint"),
    }
