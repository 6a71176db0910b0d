"A reader who follows a call through the package does not turn too many pages."
import pytest
from walk import changes, trips, walk


def test_a_function_is_listed_once_in_order():
    def two(): return [trip() for _ in range(2)]
    trip = trips()["LiteVAE.forward"]
    assert walk(two) == walk(trip)


def test_changes_of_file_are_counted():
    assert changes([("a", "f"), ("a", "g"), ("b", "h"), ("a", "i")]) == 2


@pytest.mark.parametrize("name, most", [("DiffAE.reconstruct", 12), ("LiteVAE.forward", 18)])
def test_walks_are_short(name, most):
    found = walk(trips()[name])
    assert len(found) > 40 and changes(found) <= most, found
