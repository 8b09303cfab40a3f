"""Calls that the network loses, cuts, delays, duplicates or reorders give the same outcome as undisturbed calls."""

from concurrent.futures import ThreadPoolExecutor

import pytest

import thetaprime.client as tp
from tests.support.faults.customers import adapt_once
from tests.support.faults.proxy import FAULTS, faulty_proxy
from tests.support.server.service import Start

SESSIONS = 8


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_disturbed_calls_count_once(start: Start, seed: int) -> None:
    with start() as undisturbed, tp.Client(undisturbed.address) as client:
        expected = [adapt_once(client, number) for number in range(SESSIONS)]
    with (
        start() as service,
        faulty_proxy(service.address, seed) as (address, proxy),
        tp.Client(address, timeout=20) as client,
        ThreadPoolExecutor(4) as threads,
    ):
        found = list(threads.map(lambda number: adapt_once(client, number), range(SESSIONS)))
        suffered = dict(proxy.suffered)
        with tp.Client(service.address) as straight:
            assert len(list(straight.sessions())) == SESSIONS
    assert found == expected
    assert not [line for outcome in found for line in outcome.lost]
    assert set(FAULTS) <= suffered.keys(), suffered
