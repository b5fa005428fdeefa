#!/usr/bin/env python3
"""A day of a plan in the hands of an agent, with a real client of the Model Context Protocol, against a running server.

The agent finds products, asks for a forecast, creates a plan (describing, then confirming), adds creatives, and reads figures. Users meet
the ads meanwhile: bids are won, clicked and bought from. In the second half the shop's landing page breaks. The diagnosis has to say so.

    day.py --http 127.0.0.1:8080 --admin 127.0.0.1:9090 --token TOKEN --seconds 240
"""

import argparse
import asyncio
import http.client
import json
import random
import threading
import time
from urllib.parse import urlsplit

import httpx2
from mcp import Client
from mcp.client.streamable_http import streamable_http_client

CHANNELS = [("news.example", 0.45), ("games.example", 0.35), ("weather.example", 0.2)]


class Traffic(threading.Thread):
    """Users: bid requests in a few channels, wins at the bid's price, clicks, orders."""

    def __init__(self, address, plan, seed):
        super().__init__(daemon=True)
        self.connection = http.client.HTTPConnection(address, timeout=30)
        self.plan, self.random = plan, random.Random(seed)
        self.prefix, self.stop = f"day-{seed}", False
        self.click, self.order = 0.8, 0.75
        self.requests = self.bids = self.wins = 0
        self.last = None

    def call(self, method, path, body=None):
        headers = {"content-type": "application/json"}
        self.connection.request(method, path, None if body is None else json.dumps(body), headers)
        answer = self.connection.getresponse()
        text = answer.read()
        return answer.status, json.loads(text) if text.startswith((b"{", b"[")) else None

    def run(self):
        while not self.stop:
            self.once()

    def once(self):
        roll = self.random
        site = roll.choices([c[0] for c in CHANNELS], [c[1] for c in CHANNELS])[0]
        self.requests += 1
        auction = f"{self.prefix}-{self.requests}"
        request = {"id": auction, "imp": [{"id": "1", "banner": {"format": [{"w": 300, "h": 250}]}, "bidfloor": 0.01}],
                   "site": {"domain": site}, "user": {"id": f"user-{roll.randint(1, 90):05}"}, "at": 1, "tmax": 2000}
        status, answer = self.call("POST", "/openrtb2/bid", request)
        if status != 200:
            return
        bid = answer["seatbid"][0]["bid"][0]
        self.bids += 1
        if bid["cid"] == self.plan:
            self.last = auction
        # The others' highest bid is drawn; ours wins if it is above.
        if bid["price"] < roll.lognormvariate(2.7, 0.7):
            url = urlsplit(bid["lurl"])
            self.call("GET", f"{url.path}?{url.query}".split("&loss=")[0] + "&loss=102")
            return
        self.wins += 1
        url = urlsplit(bid["nurl"].replace("${AUCTION_PRICE}", str(bid["price"])).replace("${AUCTION_CURRENCY}", "USD"))
        query = "&".join(part for part in url.query.split("&") if "${" not in part)
        status, _ = self.call("GET", f"{url.path}?{query}")
        assert status == 204, f"a win notice answered {status}"
        about = {"user": request["user"]["id"], "item": "1", "plan": bid["cid"], "creative": bid["crid"], "bid": bid["id"]}
        events = [dict(about, id=f"{auction}-v", action="impression")]
        if roll.random() < self.click:
            events.append(dict(about, id=f"{auction}-c", action="click"))
            if roll.random() < self.order:
                value = int(roll.lognormvariate(0, 0.4) * 100_000)
                events.append(dict(about, id=f"{auction}-o", action="purchase", value_micros=value))
        status, answer = self.call("POST", "/v1/events", {"events": events})
        assert status == 200 and answer["accepted"] == len(events), answer


async def tool(client, name, **arguments):
    """A tool's result; an error of the tool ends the day."""
    told = await client.call_tool(name, arguments)
    assert not told.is_error, f"{name}: {told.structured_content}"
    return told.structured_content


async def confirmed(client, name, **arguments):
    """A change of money: described, shown, confirmed."""
    asked = await tool(client, name, **arguments)
    assert asked["done"] is False, asked
    print(f"  to confirm: {asked['change'][:150]}")
    done = await tool(client, name, confirmation=asked["confirmation"])
    assert done["done"] is True, done
    return done


async def day(args):
    headers = {"authorization": f"Bearer {args.token}"} if args.token else {}
    async with httpx2.AsyncClient(headers=headers, timeout=60) as web:
        async with Client(streamable_http_client(f"http://{args.admin}/mcp", http_client=web)) as client:
            tools = [one.name for one in (await client.list_tools()).tools]
            print(f"connected ({client.protocol_version}); tools: {', '.join(tools)}")
            prompt = await client.get_prompt("launch_plan", {"budget": "500 USD", "target": "3", "products": "lamps"})
            assert "500 USD" in prompt.messages[0].content.text
            items = [item["id"] for item in (await tool(client, "list_items", limit=100))["records"]]
            goal = {"roi": {"target": 1.0}}
            forecast = await tool(client, "forecast", budget_micros=500_000_000, goal=goal, days=1)
            print(f"forecast before: based on {forecast['based_on']['scope']}")
            plan = f"agent-{args.seed}"
            # The server's clock may be another one: the schedule is left open.
            wanted = {"id": plan, "name": "An agent's plan", "advertiser": args.advertiser, "domain": "agent.example", "budget_micros": 500_000_000,
                      "goal": goal, "max_bid_micros": 30_000, "items": items}
            await confirmed(client, "create_plan", plan=wanted)
            for number, colour in enumerate(("red", "blue", "green")):
                creative = {"id": f"{plan}-{colour}", "plan": plan, "format": "banner", "w": 300, "h": 250,
                            "image_url": f"https://img.example/{number}.png"}
                await tool(client, "add_creative", creative=creative)
            threads = [Traffic(args.http, plan, args.seed * 10 + number) for number in range(args.threads)]
            for thread in threads:
                thread.start()
            began = time.time()
            broken = False
            while time.time() - began < args.seconds:
                await asyncio.sleep(min(20, args.seconds / 8))
                total = (await tool(client, "figures", plan=plan, by="total"))["total"]
                print(f"  {time.time() - began:4.0f} s: {total['wins']} impressions, {total['clicks']} clicks, {total['conversions']} orders, "
                      f"{total['spend_micros'] / 1e6:.2f} spent, return {total.get('return_on_spend', 0):.2f}")
                if not broken and time.time() - began > args.seconds / 2:
                    broken = True
                    for thread in threads:
                        thread.order *= 0.1
                    print("  the landing page breaks")
            for thread in threads:
                thread.stop = True
            for thread in threads:
                thread.join()
            rows = (await tool(client, "figures", plan=plan, by="hour", **{"from": 0}))["rows"]
            print(f"hours with figures: {len(rows)}; by channel: "
                  + ", ".join(f"{row['key']} {row['wins']}" for row in (await tool(client, "figures", plan=plan, by="channel", **{"from": 0}))["rows"]))
            told = await tool(client, "diagnose", plan=plan) if len(rows) > 1 else await tool(
                client, "diagnose", plan=plan, before_from=int(rows[0]["key"]) - 7200, before_to=int(rows[0]["key"]),
                after_from=int(rows[0]["key"]), after_to=int(rows[0]["key"]) + 3600)
            print(f"diagnosis: {told['summary']}")
            for column in ("order_value", "spend"):
                change = told[column]["after"] - told[column]["before"]
                total = sum(part[column] for part in told["parts"])
                assert abs(total - change) <= 1e-6 * max(told[column].values()), (column, total, change)
            causes = {part["cause"]: part for part in told["parts"] if part["moved"]}
            print(f"moved: {', '.join(causes) or 'nothing'}")
            if len(rows) >= 12:
                assert "conversion_rate" in causes and causes["conversion_rate"]["return_on_spend"] < 0, told["parts"]
                worst = min(told["parts"], key=lambda part: part["return_on_spend"])
                assert worst["cause"] == "conversion_rate", worst
            auction = next((thread.last for thread in threads if thread.last), None)
            explained = await tool(client, "explain_bid", request=auction)
            print(f"explained {auction}: {explained['stages']}")
            better = await tool(client, "forecast", plan=plan, budget_micros=800_000_000, goal=goal, days=1)
            print(f"forecast after: based on {better['based_on']['scope']}, return "
                  f"{(better['expected'] or {}).get('return_on_spend', {}).get('expected', 0):.2f}")
            await confirmed(client, "change_plan", plan=plan, change={"goal": {"roi": {"target": 1.2}}})
            await tool(client, "pause_plan", plan=plan)
            resources = (await client.list_resources()).resources
            report = await client.read_resource(f"longbow://plans/{plan}/report")
            assert json.loads(report.contents[0].text)["total"]["wins"] >= 0
            requests, wins = sum(t.requests for t in threads), sum(t.wins for t in threads)
            print(f"done: {requests} bid requests, {wins} wins of all plans, {len(resources)} resources")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--http", default="127.0.0.1:8080")
    parser.add_argument("--admin", default="127.0.0.1:9090")
    parser.add_argument("--token", default="")
    parser.add_argument("--advertiser", default="agent")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    asyncio.run(day(parser.parse_args()))


if __name__ == "__main__":
    main()
