"""The garbage collector while a value of megabytes is made: it waits, and then takes the value for an old one."""

from __future__ import annotations

import gc
import threading

from scribewire.server.http.answers import long_value


def test_nothing_is_collected_until_the_last_of_several_is_made():
    entered, leave = threading.Event(), threading.Event()

    def other() -> None:
        with long_value():
            entered.set()
            leave.wait(30)

    thread = threading.Thread(target=other)
    with long_value():
        thread.start()
        assert entered.wait(30)
        assert not gc.isenabled()
    assert not gc.isenabled()
    leave.set()
    thread.join(30)
    assert gc.isenabled()


def test_the_next_young_collection_does_not_look_at_it():
    with long_value():
        value = [[n] for n in range(5000)]
    young = {id(one) for one in gc.get_objects(generation=0)}
    assert not young & {id(one) for one in value}


def test_a_failure_gives_the_collector_back():
    try:
        with long_value():
            raise KeyError
    except KeyError:
        pass
    assert gc.isenabled()
