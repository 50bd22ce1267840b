"""The pages of the pool that a lease keeps in."""

from enclave_runtime.engine.lease import Lease
from enclave_runtime.engine.lease_room import PoolRoom
from enclave_runtime.engine.pages import PageTable


def table_of(lease: Lease) -> PageTable:
    """The table of a lease that keeps something in the pool."""
    room = lease._room
    assert isinstance(room, PoolRoom)
    assert room._table is not None
    return room._table
