"""A client that knows no proto file: it asks the services what they are, then uses them.

Usage: grpc_client.py REGISTRY ROUTER, each HOST:PORT. It ends with status 0 only if everything held.
"""

import sys
import threading
import time

import grpc
from google.protobuf import descriptor_pool, json_format, message_factory
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)

PATIENCE = 20  # seconds


class Server:
    """What a server says of itself, and calls by name with messages as dicts."""

    def __init__(self, address):
        self.channel = grpc.insecure_channel(address)
        grpc.channel_ready_future(self.channel).result(timeout=PATIENCE)
        self.reflection = ProtoReflectionDescriptorDatabase(self.channel)
        self.pool = descriptor_pool.DescriptorPool(self.reflection)

    def services(self):
        return set(self.reflection.get_services())

    def describe(self, service):
        described = self.pool.FindServiceByName(service)
        return {method.name: method for method in described.methods}

    def call(self, service, method, request=None):
        described = self.describe(service)[method]
        answer = message_factory.GetMessageClass(described.output_type)
        question = message_factory.GetMessageClass(described.input_type)
        kind = "unary_stream" if described.server_streaming else "unary_unary"
        stub = getattr(self.channel, kind)(
            f"/{service}/{method}",
            request_serializer=question.SerializeToString,
            response_deserializer=answer.FromString,
        )
        message = json_format.ParseDict(request or {}, question())
        answers = stub(message, timeout=PATIENCE)
        if described.server_streaming:
            return (json_format.MessageToDict(one) for one in answers)
        return json_format.MessageToDict(answers)


def refused(code, call):
    """Returns the details of a refusal with this code."""
    try:
        call()
    except grpc.RpcError as error:
        assert error.code() == code, error
        details = dict(error.trailing_metadata()).get("grpc-status-details-bin")
        return error.details(), details
    raise AssertionError(f"not refused with {code}")


def eventually(what, holds):
    """Waits for something that takes its time."""
    end = time.monotonic() + PATIENCE
    while not (found := holds()):
        assert time.monotonic() < end, f"in vain: {what}"
        time.sleep(0.05)
    return found


def health(server, components):
    name = "grpc.health.v1.Health"
    for component in ["", *components]:
        request = {"service": component}
        eventually(
            f"{component} serves",
            lambda: server.call(name, "Check", request)["status"] == "SERVING",
        )
    watched = server.call(name, "Watch", {"service": components[0]})
    assert next(watched)["status"] == "SERVING"
    refused(grpc.StatusCode.NOT_FOUND, lambda: server.call(name, "Check", {"service": "x"}))


def registry(server):
    package = "tandem.registry.v1"
    services = server.services()
    assert f"{package}.RouteService" in services, services
    assert "tandem.router.v1.DialogService" not in services, "it is not served here"
    print("registry lists", len(services), "services")
    routes = f"{package}.RouteService"
    methods = server.describe(routes)
    assert methods["CreateRoute"].input_type.fields_by_name["route"].message_type
    print("RouteService has", ", ".join(sorted(methods)))

    route = {"name": "routes/python", "results": [{"uri": "sip:127.0.0.1:5060"}]}
    created = server.call(routes, "CreateRoute", {"route": route})
    assert created["etag"], created
    assert server.call(routes, "GetRoute", {"name": "routes/python"}) == created
    listed = server.call(routes, "ListRoutes")["routes"]
    assert created in listed, listed
    bad = {"name": "routes/bad", "results": [{"uri": "sips:127.0.0.1"}]}
    said, details = refused(
        grpc.StatusCode.INVALID_ARGUMENT,
        lambda: server.call(routes, "CreateRoute", {"route": bad}),
    )
    assert b"google.rpc.BadRequest" in details, details
    print("a bad route:", said)
    print("put, got and listed", created["name"], "with etag", created["etag"])

    table = {"name": "tables/python", "table": "python", "autoexpire": "600s"}
    server.call(
        f"{package}.TableDefinitionService",
        "CreateTableDefinition",
        {"tableDefinition": table},
    )
    if f"{package}.WatchService" in services:
        watch(server, f"{package}.WatchService", routes, route)


def watch(server, name, routes, route):
    """Everything there is comes first, then what changes."""
    changes = server.call(name, "Watch")
    first = next(changes)
    resources = first["snapshot"]["resources"]
    assert any(one.get("route", {}).get("name") == route["name"] for one in resources)
    changed = {**route, "name": "routes/python-2"}
    server.call(routes, "CreateRoute", {"route": changed})
    for one in changes:
        found = one.get("change", {}).get("changed", [])
        if any(one.get("route", {}).get("name") == changed["name"] for one in found):
            break
    else:
        raise AssertionError("the change did not come")
    print("watched", changed["name"], "come")


def router(server):
    services = server.services()
    assert "tandem.router.v1.DialogService" in services, services
    print("router lists", len(services), "services")
    status = server.call("tandem.router.v1.StatusService", "GetStatus")
    assert status["registryConnected"], status
    server.call("tandem.router.v1.DialogService", "ListDialogs")

    entries = "tandem.router.v1.TableEntryService"
    entry = {"table": "python", "key": "YQ==", "text": "Yg=="}
    put = eventually("the table is known", lambda: try_put(server, entries, entry))
    seen = []

    def read():
        for event in server.call(entries, "WatchTableEntries", {"parent": "tables/python"}):
            seen.append(event)
            return

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    while not seen:
        time.sleep(0.2)
        server.call(entries, "SetTableEntry", {"tableEntry": {**entry, "text": "Yw=="}})
        assert reader.is_alive() or seen, "the watch ended"
    assert seen[0]["tableEntry"]["text"] == "Yw==", seen
    got = server.call(entries, "GetTableEntry", {"name": put["name"]})
    assert got["text"] == "Yw==", got
    listed = server.call(entries, "ListTableEntries", {"parent": "tables/python"})
    assert [one["name"] for one in listed["tableEntries"]] == [put["name"]]
    print("put, watched, got and listed", put["name"])


def try_put(server, entries, entry):
    try:
        return server.call(entries, "SetTableEntry", {"tableEntry": entry})
    except grpc.RpcError as error:
        assert error.code() == grpc.StatusCode.NOT_FOUND, error
        return None


def main():
    first, second = (Server(address) for address in sys.argv[1:3])
    health(first, ["store"])
    registry(first)
    health(second, ["configuration", "registry"])
    router(second)


main()
