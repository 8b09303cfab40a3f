"""The asyncio client: the methods of the synchronous client, as coroutines.

Long work (collecting in an environment, packing, loading a policy) runs on threads, so that the event loop continues.

Examples:
    >>> from thetaprime.client import aio
    >>> async with aio.Client("localhost:50051") as client:
    ...     adapted = await client.adapt("half-cheetah-direction", env, rounds=3)
    ...     action = adapted.act(observation)
"""

from thetaprime.client._async.client import Client
from thetaprime.client._async.session import Session

__all__ = ["Client", "Session"]
