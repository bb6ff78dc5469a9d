"""Conversations of tenants and the turns on them. In memory only; a restart forgets them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

from stepwell.server.errors import ApiError, bad_request, clip, not_found
from stepwell.server.settings import ServerSettings
from stepwell.server.stores.items import Item, new_id, size_bytes
from stepwell.server.stores.kept import KeptPerTenant


@dataclass(slots=True)
class StoredConversation:
    """Items in their order, each under its id, and whether a turn goes on from them now."""

    tenant: str
    created_at: int
    metadata: dict[str, str]
    id: str = field(default_factory=lambda: new_id("conv"))
    items: dict[str, Item] = field(default_factory=dict)
    size_bytes: int = 0
    turn: ConversationTurn | None = None

    @property
    def running(self) -> bool:
        return self.turn is not None

    def shown(self) -> dict[str, Any]:
        """As the wire has it."""
        return {
            "id": self.id,
            "object": "conversation",
            "created_at": self.created_at,
            "metadata": self.metadata,
        }

    def item(self, item_id: str) -> Item:
        """Raises a 404 ``ApiError``."""
        found = self.items.get(item_id)
        if found is None:
            raise not_found(f"Item with id '{clip(item_id, 64)}' not found in this conversation.")
        return found


class ConversationStore(KeptPerTenant[StoredConversation]):
    """Every change of a conversation goes through here, in the event loop. A turn's items are read in a
    thread: nothing changes them while one runs."""

    def __init__(self, settings: ServerSettings) -> None:
        super().__init__(settings.max_conversations, settings.max_conversations_bytes)
        self._largest_bytes = settings.max_conversations_bytes // 2
        self._max_items = settings.max_conversation_items
        self._retry_after_ms = settings.retry_after_ms

    def create(
        self, tenant: str, items: Sequence[Item], metadata: dict[str, str], created_at: int
    ) -> StoredConversation:
        """Raises ``ApiError`` when the items cannot be kept."""
        conversation = StoredConversation(tenant, created_at, metadata)
        self.require_room(conversation, items, "items")
        self._append(conversation, items)
        self.keep(tenant, conversation)
        return conversation

    def get(self, tenant: str, conversation_id: str) -> StoredConversation:
        """Raises a 404 ``ApiError``, also for what belongs to another tenant."""
        found = self.find(tenant, conversation_id)
        if found is None:
            raise not_found(f"Conversation with id '{clip(conversation_id, 64)}' not found.")
        return found

    def delete(self, conversation: StoredConversation) -> None:
        """A turn that runs ends as if nothing had happened, and what it says is kept nowhere."""
        self.forget(conversation.tenant, conversation.id)

    def add(self, conversation: StoredConversation, items: Sequence[Item]) -> None:
        """Raises ``ApiError``: a 409 while a turn runs, a 400 for what cannot be kept."""
        self.require_still(conversation)
        self.require_room(conversation, items, "items")
        self._append(conversation, items)
        self.changed(conversation)

    def remove(self, conversation: StoredConversation, item_id: str) -> None:
        """Raises ``ApiError``: a 409 while a turn runs, a 404 for an item that is not there."""
        self.require_still(conversation)
        item = conversation.item(item_id)
        del conversation.items[item_id]
        conversation.size_bytes -= size_bytes(item)
        self.changed(conversation)

    def turn(self, conversation: StoredConversation, items: Sequence[Item]) -> ConversationTurn:
        """A turn with these input items, not begun."""
        return ConversationTurn(self, conversation, items)

    def end_turn(self, turn: ConversationTurn, items: Iterable[Item]) -> None:
        """Once; a second end changes nothing."""
        conversation = turn.conversation
        if conversation.turn is not turn:
            return
        conversation.turn = None
        self._append(conversation, items)
        self.changed(conversation)

    def changed(self, conversation: StoredConversation) -> None:
        """Its size counts anew, unless it has been deleted."""
        if self.find(conversation.tenant, conversation.id) is conversation:
            self.keep(conversation.tenant, conversation)

    def require_still(self, conversation: StoredConversation) -> None:
        """Raises a 409 ``ApiError`` while a turn runs: which of two came first would be chance."""
        if conversation.turn is not None:
            raise ApiError(
                409,
                "Another turn of this conversation is under way; try again when it has ended.",
                code="conversation_locked",
                param="conversation",
                retry_after_ms=self._retry_after_ms,
            )

    def require_room(self, conversation: StoredConversation, items: Sequence[Item], param: str) -> None:
        """Raises a 400 ``ApiError``. ``param``: the field that holds the items."""
        ids = set(conversation.items)
        for item in items:
            if item["id"] in ids:
                raise bad_request(
                    f"There is an item with id '{clip(item['id'], 64)}' already; send each one once.",
                    param=param,
                    code="duplicate_item",
                )
            ids.add(item["id"])
        more_bytes = sum(map(size_bytes, items))
        too_large = conversation.size_bytes + more_bytes > self._largest_bytes
        if too_large or len(ids) > self._max_items:
            raise bad_request(
                f"A conversation may hold {self._max_items} items and {self._largest_bytes} bytes; delete "
                "items or begin another one.",
                param=param,
                code="conversation_full",
            )

    def _append(self, conversation: StoredConversation, items: Iterable[Item]) -> None:
        for item in items:
            conversation.items[item["id"]] = item
            conversation.size_bytes += size_bytes(item)


class ConversationTurn:
    """A turn from before its prompt is made until its answer is there: the only one meanwhile. Left as a
    context manager without ``completed``, it has added nothing."""

    def __init__(
        self, store: ConversationStore, conversation: StoredConversation, items: Sequence[Item]
    ) -> None:
        self.conversation = conversation
        self._store = store
        self._items = items

    def before(self) -> Iterator[Item]:
        """What comes before the input."""
        yield from self.conversation.items.values()

    def completed(self, output: Iterable[Item]) -> None:
        """Input and output are the conversation's from now on."""
        self._store.end_turn(self, [*self._items, *output])

    def over(self) -> None:
        """Nothing is added, unless it has been."""
        self._store.end_turn(self, ())

    def __enter__(self) -> ConversationTurn:
        """Raises ``ApiError``: a 409 while another turn runs, a 400 when there is no room for the input."""
        self._store.require_still(self.conversation)
        self._store.require_room(self.conversation, self._items, "input")
        self.conversation.turn = self
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.over()
