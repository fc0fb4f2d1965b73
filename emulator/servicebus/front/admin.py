"""The administration interface: entities and their counts over HTTP, as Atom XML or as JSON.

`ServiceBusAdministrationClient` speaks Atom, but only ever to an https URL (its generated client writes the scheme
into it and ignores `UseDevelopmentEmulator`); a transport that changes the scheme, given by its public `transport=`,
reaches this. A request with `Accept: application/json` gets JSON, and a `PUT` may send JSON: see
docs/emulator-servicebus.md.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec
from aiohttp import web

from emulator.servicebus.engine.errors import ServiceBusError
from emulator.servicebus.engine.namespace import Namespace
from emulator.servicebus.engine.registry import subscription_path
from emulator.servicebus.entities import QueueConfig, SubscriptionConfig, TopicConfig
from emulator.servicebus.front import atom
from emulator.servicebus.front.auth import Denied, Verifier

BODY_BYTES_MAX = 65_536
_ENGINE = web.AppKey("engine", Namespace)
_JSON = "application/json"
_CREATED, _BAD_REQUEST, _UNAUTHORIZED = 201, 400, 401


def admin_app(
    engine: Namespace, *, tokens: Verifier | None = None, wall_s: Callable[[], float] | None = None
) -> web.Application:
    """An application to be served on its own or mounted in another one.

    With `tokens` (and the wall time to check expiry by) a request must carry a shared access signature or a token in
    `Authorization`, as the service wants it; without, it is open to whoever reaches it. A request for JSON, which the
    service has not, may leave it out.
    """
    app = web.Application(client_max_size=BODY_BYTES_MAX, middlewares=[_errors, _authorization(tokens, wall_s)])
    app[_ENGINE] = engine
    app.add_routes(
        [
            web.get("/$namespaceinfo", _namespace),
            web.get("/$Resources/{kind:queues|topics}", _list_entities),
            web.get("/{topic:.+}/{infix:(?i:subscriptions)}", _list_subscriptions),
            web.get("/{topic:.+}/{infix:(?i:subscriptions)}/{name}", _get_subscription),
            web.put("/{topic:.+}/{infix:(?i:subscriptions)}/{name}", _put_subscription),
            web.delete("/{topic:.+}/{infix:(?i:subscriptions)}/{name}", _delete_subscription),
            web.get("/{name:.+}", _get_entity),
            web.put("/{name:.+}", _put_entity),
            web.delete("/{name:.+}", _delete_entity),
        ]
    )
    return app


_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@web.middleware
async def _errors(request: web.Request, handler: _Handler) -> web.StreamResponse:
    """Answer a refusal in the service's own form."""
    try:
        return await handler(request)
    except ServiceBusError as error:
        return _refusal(request, error.status, error.description)
    except (ValueError, msgspec.MsgspecError) as error:
        return _refusal(request, _BAD_REQUEST, str(error))


def _refusal(request: web.Request, status: int, detail: str) -> web.Response:
    if _wants_json(request):
        return web.json_response({"code": status, "detail": detail}, status=status)
    return web.Response(body=atom.error(status, detail), status=status, content_type="application/xml")


def _authorization(tokens: Verifier | None, wall_s: Callable[[], float] | None) -> Any:
    @web.middleware
    async def middleware(request: web.Request, handler: _Handler) -> web.StreamResponse:
        is_open = _wants_json(request) and "Authorization" not in request.headers
        if tokens is not None and wall_s is not None and not is_open:
            try:
                tokens.authorization(request.headers.get("Authorization", ""), request.path, wall_s())
            except Denied as denied:
                return _refusal(request, _UNAUTHORIZED, str(denied))
        return await handler(request)

    return middleware


def _wants_json(request: web.Request) -> bool:
    return _JSON in request.headers.get("Accept", "")


def _answer(request: web.Request, entries: list[atom.Entry], *, is_list: bool, status: int = 200) -> web.Response:
    if _wants_json(request):
        found: Any = [entry.fields for entry in entries] if is_list else (entries[0].fields if entries else None)
        return web.json_response(found, status=status if entries or is_list else 404, dumps=atom.dumps)
    body = atom.entry(entries[0]) if entries and not is_list else atom.feed(entries)
    return web.Response(body=body, status=status, content_type="application/atom+xml")


def _page(request: web.Request, entries: list[atom.Entry]) -> web.Response:
    skip, top = (int(request.query.get(name, default)) for name, default in (("$skip", "0"), ("$top", "100")))
    return _answer(request, entries[max(skip, 0) : max(skip, 0) + max(top, 0)], is_list=True)


# --- what is shown ---------------------------------------------------------------------------------------------


def _queue_entry(engine: Namespace, config: QueueConfig) -> atom.Entry:
    counts = engine.counts(config.name)
    fields = {**msgspec.structs.asdict(config), "size_bytes": engine.queue(config.name).size_bytes}
    return atom.Entry("QueueDescription", config.name, {**fields, **_counts(counts._asdict())})


def _topic_entry(engine: Namespace, name: str) -> atom.Entry:
    topic = engine.entities.topic(name)
    fields = msgspec.structs.asdict(topic.config)
    fields["size_bytes"] = topic.size_bytes
    fields["subscriptions"] = [each.config.name for each in topic.subscriptions.values()]
    counts = {"scheduled": len(topic.scheduled)}
    return atom.Entry("TopicDescription", topic.path, {**fields, **_counts(counts)})


def _subscription_entry(engine: Namespace, topic: str, name: str) -> atom.Entry:
    subscription = engine.entities.subscription(topic, name)
    fields = msgspec.structs.asdict(subscription.config)
    fields["rules"] = msgspec.to_builtins(subscription.config.rules)
    counts = engine.counts(subscription.queue.path)
    return atom.Entry("SubscriptionDescription", subscription.config.name, {**fields, **_counts(counts._asdict())})


def _counts(counts: Mapping[str, int]) -> dict[str, Any]:
    return {"message_count": counts.get("active", 0) + counts.get("deferred", 0), "counts": dict(counts)}


# --- handlers --------------------------------------------------------------------------------------------------


async def _namespace(request: web.Request) -> web.Response:
    name = request.app[_ENGINE].config.namespace
    fields = {"alias": name, "messaging_sku": "Standard", "name": name, "namespace_type": "Messaging"}
    return _answer(request, [atom.Entry("NamespaceInfo", name, fields)], is_list=False)


async def _list_entities(request: web.Request) -> web.Response:
    engine = request.app[_ENGINE]
    if request.match_info["kind"] == "queues":
        entries = [_queue_entry(engine, config) for config in engine.entities.queues.values()]
    else:
        entries = [_topic_entry(engine, topic.path) for topic in engine.entities.topics.values()]
    return _page(request, entries)


async def _list_subscriptions(request: web.Request) -> web.Response:
    engine, topic = request.app[_ENGINE], request.match_info["topic"]
    names = [each.config.name for each in engine.entities.topic(topic).subscriptions.values()]
    return _page(request, [_subscription_entry(engine, topic, name) for name in names])


def _entity_entries(engine: Namespace, name: str) -> list[atom.Entry]:
    if name.casefold() in engine.entities.queues:
        return [_queue_entry(engine, engine.entities.queues[name.casefold()])]
    return [_topic_entry(engine, name)] if name.casefold() in engine.entities.topics else []


async def _get_entity(request: web.Request) -> web.Response:
    """An entity that is not there is an empty feed with status 200, as the service answers."""
    return _answer(request, _entity_entries(request.app[_ENGINE], request.match_info["name"]), is_list=False)


async def _get_subscription(request: web.Request) -> web.Response:
    engine, topic, name = request.app[_ENGINE], request.match_info["topic"], request.match_info["name"]
    found = name.casefold() in engine.entities.topic(topic).subscriptions
    return _answer(request, [_subscription_entry(engine, topic, name)] if found else [], is_list=False)


async def _description(request: web.Request) -> tuple[str, dict[str, Any]]:
    """The kind of description that a body holds, and its fields by this project's names."""
    if "If-Match" in request.headers:
        raise ValueError("entities are not updated here: delete it and create it anew")
    body = await request.read()
    if request.content_type == _JSON:
        fields = msgspec.json.decode(body, type=dict[str, Any])
        kind = str(fields.pop("type", "queue")).capitalize()
        return f"{kind}Description", fields
    return atom.parse(body)


async def _put_entity(request: web.Request) -> web.Response:
    engine, name = request.app[_ENGINE], request.match_info["name"]
    kind, fields = await _description(request)
    if kind == "QueueDescription":
        engine.entities.create_queue(msgspec.convert({**fields, "name": name}, QueueConfig))
    elif kind == "TopicDescription":
        engine.entities.create_topic(msgspec.convert({**fields, "name": name}, TopicConfig))
    elif kind == "RuleDescription":
        raise ValueError("rules are not changed here: delete the subscription and make it anew in JSON, with its rules")
    else:
        raise ValueError(f"a {kind} cannot be put at '{name}'")
    return _answer(request, _entity_entries(engine, name), is_list=False, status=_CREATED)


async def _put_subscription(request: web.Request) -> web.Response:
    engine, topic, name = request.app[_ENGINE], request.match_info["topic"], request.match_info["name"]
    _, fields = await _description(request)
    engine.entities.create_subscription(topic, msgspec.convert({**fields, "name": name}, SubscriptionConfig))
    return _answer(request, [_subscription_entry(engine, topic, name)], is_list=False, status=_CREATED)


async def _delete_entity(request: web.Request) -> web.Response:
    request.app[_ENGINE].entities.delete(request.match_info["name"])
    return web.Response()


async def _delete_subscription(request: web.Request) -> web.Response:
    topic, name = request.match_info["topic"], request.match_info["name"]
    request.app[_ENGINE].entities.delete(subscription_path(topic, name))
    return web.Response()
