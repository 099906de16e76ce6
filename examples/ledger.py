"""Ledger: counts what the bot `shop` sells. Each order counts once, whatever is killed meanwhile.

What happens in the transaction happens together, once, with the end of the message: the new count
is kept, and the answer is sent.
"""

from pydantic import BaseModel

from dims import on


class Order(BaseModel):
    item: str
    customer: int


@on("order", model=Order)
async def order(message):
    item = message.body.item
    async with message.transaction() as tx:
        counts = tx.get("counts", {})
        counts[item] = counts.get(item, 0) + 1
        tx["counts"] = counts
        text = f"{item} number {counts[item]}"
        tx.send("shop", "booked", {"customer": message.body.customer, "text": text})


@on("total")
async def total(message):
    async with message.transaction() as tx:
        return tx.get("counts", {})
