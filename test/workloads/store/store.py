# Copyright The Godwit Authors.
# SPDX-License-Identifier: Apache-2.0
"""A store over HTTP: a thread for each connection, and an SQLite database in /data."""

import json
import os
import sqlite3
import threading
import time
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

IDENTITY = f"{os.getpid()}-{uuid.uuid4()}"
problems = []
progress = 0
local = threading.local()


def database():
    """The connection of this thread, which stays open as long as its client does."""
    if not hasattr(local, "db"):
        local.db = sqlite3.connect("/data/store.db", timeout=60, isolation_level=None)
        local.db.execute("PRAGMA synchronous=NORMAL")
    return local.db


def tick():
    global progress
    last = time.monotonic()
    while True:
        time.sleep(0.05)
        now = time.monotonic()
        if now < last:
            problems.append(f"the monotonic clock went back by {last - now} s")
        elif now - last > 300:
            problems.append(f"the monotonic clock jumped by {now - last} s")
        last = now
        progress += 1


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self, status, body=b""):
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_PUT(self):
        value = self.rfile.read(int(self.headers["Content-Length"]))
        database().execute("INSERT OR REPLACE INTO kv VALUES (?, ?)", (self.path.removeprefix("/kv/"), value))
        self.answer(201)

    def do_GET(self):
        if self.path == "/self":
            self.answer(200, json.dumps({"identity": IDENTITY, "progress": progress, "problems": problems}).encode())
        elif self.path == "/kv/":
            self.answer(200, json.dumps([row[0] for row in database().execute("SELECT key FROM kv")]).encode())
        else:
            row = database().execute("SELECT value FROM kv WHERE key = ?", (self.path.removeprefix("/kv/"),)).fetchone()
            self.answer(*((404,) if row is None else (200, row[0])))

    def log_message(self, *args):
        pass


database().execute("PRAGMA journal_mode=WAL")
database().execute("CREATE TABLE IF NOT EXISTS kv (key TEXT PRIMARY KEY, value BLOB NOT NULL)")
threading.Thread(target=tick, daemon=True).start()
ThreadingHTTPServer(("0.0.0.0", 8080), Handler).serve_forever()
