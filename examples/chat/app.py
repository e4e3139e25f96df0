"""A chat: public and private messages, and who is there, on one event stream per window.

`make chat` starts it. Any `MERCURE_*` key can be set in the environment with the prefix `QUART_`:
`QUART_MERCURE_HUB_URL` takes the hub out of this process (`hub.py` is one to try).
"""

import os

from quart import Quart, redirect, render_template, request, session, url_for

from quart_mercure import MercureSSE

app = Quart(__name__)
app.config["SECRET_KEY"] = "a chat's secret: change it before you show this to the world"
app.config.from_prefixed_env()
sse = MercureSSE(app)


@sse.payload_getter
def who(_topics):
    return {"username": session.get("username")}


@app.get("/")
async def index():
    return await render_template("index.html", username=session.get("username"))


@app.post("/messages")
async def publish():
    form = await request.form
    username = session.get("username")
    private = username is not None and "private" in form
    if text := form.get("text", "").strip():
        message = app.components.ChatMessage(author=username, text=text, private=private)
        await app.sse.publish("messages", message, private=private, type="chat")
    return "", 204


@app.get("/presence")
async def presence():
    subscriptions = await app.sse.get_subscriptions("messages")
    payloads = [each.get("payload") or {} for each in subscriptions["subscriptions"]]
    usernames = [payload.get("username") for payload in payloads]
    names = sorted(set(filter(None, usernames)))
    guests = usernames.count(None)
    return await render_template("presence.html", names=names, guests=guests)


@app.post("/login")
async def login():
    session["username"] = (await request.form)["username"].strip()[:30] or None
    return redirect(url_for("index"))


@app.post("/logout")
async def logout():
    session.clear()
    return redirect(url_for("index"))


if __name__ == "__main__":
    app.run(port=int(os.environ.get("PORT", "5000")), debug=True, use_reloader=False)
