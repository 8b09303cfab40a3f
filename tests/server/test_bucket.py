"""Blobs in an object store: a server of the S3 protocol on a folder."""

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import pytest

from tests.support.server.object_store import URL, ObjectStore, object_store
from thetaprime import wire
from thetaprime.server import StartupError
from thetaprime.server.errors import CorruptDataError
from thetaprime.server.store import Store
from thetaprime.server.store.bucket import BlobBucket

if TYPE_CHECKING:
    from tests.support.server.service import Start

pytestmark = pytest.mark.slow
Collect = Callable[..., list[wire.Trajectory]]


@pytest.fixture
def objects(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ObjectStore]:
    with object_store(tmp_path / "objects", monkeypatch) as store:
        yield store


def test_a_blob_is_written_once_and_read_by_its_digest(objects: ObjectStore) -> None:
    blobs = BlobBucket(URL)
    data = bytes(3_000_000)
    digest = blobs.put(data)
    assert blobs.put(data) == digest == wire.sha256_hex(data)
    assert digest in blobs
    assert (blobs.size(digest), blobs.get(digest)) == (len(data), data)
    assert list(blobs.digests()) == [digest]
    assert not list(blobs.digests(older_than=3600))
    for _ in range(2):
        blobs.delete(digest)
        assert digest not in blobs
        assert blobs.size(digest) == 0
    with pytest.raises(CorruptDataError, match=digest):
        blobs.get(digest)


def test_a_round_on_an_object_store(objects: ObjectStore, start: "Start", collect: Collect) -> None:
    with start(blobs=URL, row_bytes=0) as service:
        created = service.create()
        session_id = created.session.session_id
        batch = service.upload(session_id, collect(created.policy), upload_id="u").batch
        adapted = service.adapt(session_id, 0, batch.sha256)
        assert len(list(BlobBucket(URL).digests())) == 2

        objects.stop()
        with pytest.raises(grpc.RpcError) as refused:
            service.upload(session_id, collect(adapted.policy), round_index=1, upload_id="v")
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
        assert objects.address not in str(refused.value.details())
        objects.start()
        service.upload(session_id, collect(adapted.policy), round_index=1, upload_id="v")
        assert service.get(session_id).session.batch.uploads == 1


def test_blobs_of_expired_sessions_are_deleted(
    objects: ObjectStore, start: "Start", collect: Collect, tmp_path: Path
) -> None:
    with start(blobs=URL, row_bytes=0, store=tmp_path / "store") as service:
        created = service.create()
        service.upload(created.session.session_id, collect(created.policy), upload_id="u")
    later = time.time_ns() // 1000 + 10**15
    with contextlib.closing(Store(tmp_path / "store", now=lambda: later, blobs=URL)) as store:
        assert store.sweep() == 1
    assert not list(BlobBucket(URL).digests())


@pytest.mark.parametrize("place", ["ftp://host/folder", "http://host/bucket"])
def test_a_url_of_no_object_store_is_refused(place: str, tmp_path: Path) -> None:
    with pytest.raises(StartupError, match="s3://"):
        Store(tmp_path, blobs=place)
