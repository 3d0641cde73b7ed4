"""Drives a kvnode with redis-py, as an application would: redis_py.py PORT.

For the reconnection test it prints RESTART and waits for a line: whoever started it is to kill the
server, start another one on the same port and answer. It prints a line for each part that passed.
"""

import sys
import threading

import redis

PORT = int(sys.argv[1])


def client(**options):
    # Without a time-out of its own a client that is not answered would wait for ever.
    return redis.Redis(port=PORT, socket_timeout=60, **options)


def check(found, wanted):
    assert found == wanted, f"{found!r} is not {wanted!r}"


def run_threads(count, work):
    failures = []

    def guarded(number):
        try:
            work(number)
        except BaseException as failure:
            failures.append(failure)

    threads = [threading.Thread(target=guarded, args=(n,)) for n in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


def basics(r, text):
    r.flushall()
    check(r.ping(), True)
    check(r.set("k", "v", ex=100, nx=True), True)
    check(r.set("k", "v", nx=True), None)
    check(r.get("k"), text("v"))
    # Some seconds may have passed on the way.
    left = r.ttl("k")
    assert 80 <= left <= 100, left
    check(r.get("missing"), None)
    check(r.mset({"a": 1, "b": 2}), True)
    check(r.mget("a", "missing", "b"), [text("1"), None, text("2")])
    check(r.incrby("a", 41), 42)
    check(r.rpush("l", "x", "y", "z"), 3)
    check(r.lrange("l", 0, -1), [text("x"), text("y"), text("z")])
    check(r.lpos("l", "y"), 1)
    check(r.lmove("l", "m", "LEFT", "RIGHT"), text("x"))
    check(r.lmpop(2, "none", "l", direction="RIGHT", count=5), [text("l"), [text("z"), text("y")]])
    check(r.lmpop(1, "none", direction="LEFT"), None)
    check(r.type("m"), text("list"))
    check(r.delete("a", "b", "nope"), 2)
    binary = bytes(range(256))
    raw = client()
    raw.set("binary", binary)
    check(raw.get("binary"), binary)
    r.delete("binary")
    try:
        r.incr("k")
        raise AssertionError("a string was incremented")
    except redis.ResponseError as error:
        check(str(error), "value is not an integer or out of range")
    try:
        r.lpush("k", "x")
        raise AssertionError("a string was pushed to")
    except redis.ResponseError as error:
        assert "WRONGTYPE" in str(error), error


def introspection(r):
    check(r.config_get("databases"), {"databases": "1"})
    check(r.client_setname("tester"), True)
    assert r.client_getname() in ("tester", b"tester")
    assert any(line["name"] == "tester" for line in r.client_list())
    check(r.info("server")["redis_version"], "7.0.15")
    check(r.info()["db0"]["keys"], r.dbsize())
    assert "get" in r.command()
    assert r.command_count() > 60


def pipelines(r, text):
    pipe = r.pipeline(transaction=False)
    for number in range(1000):
        pipe.set(f"p{number}", number)
        pipe.get(f"p{number}")
    replies = pipe.execute()
    check(len(replies), 2000)
    check(replies[1::2], [text(str(number)) for number in range(1000)])
    pipe = r.pipeline(transaction=False)
    pipe.set("word", "x").incr("word").get("word")
    set_, failed, word = pipe.execute(raise_on_error=False)
    assert set_ is True and word == text("x")
    assert isinstance(failed, redis.ResponseError), failed


def transactions(r, text):
    pipe = r.pipeline()
    pipe.set("t", 1).incr("t").lpush("tl", "a").get("t")
    check(pipe.execute(), [True, 2, 1, text("2")])
    # One that fails half-way has no effect on the ones before and after: each is atomic by itself.
    pipe = r.pipeline()
    pipe.incr("t").lpush("t", "x").incr("t")
    first, failed, last = pipe.execute(raise_on_error=False)
    check((first, last), (3, 4))
    assert isinstance(failed, redis.ResponseError), failed
    r.set("n", 0)
    retries = []

    def increment(_):
        own = client()
        for _ in range(50):
            with own.pipeline() as pipe:
                while True:
                    try:
                        pipe.watch("n")
                        number = int(pipe.get("n"))
                        pipe.multi()
                        pipe.set("n", number + 1)
                        pipe.execute()
                        break
                    except redis.WatchError:
                        retries.append(1)

    run_threads(4, increment)
    check(r.get("n"), text("200"))
    # The same by redis-py's own helper.
    r.transaction(lambda pipe: (pipe.multi(), pipe.incr("n")), "n")
    check(r.get("n"), text("201"))


def blocking(r, text):
    r.delete("jobs", "done")
    check(r.blpop(["jobs"], timeout=0.01), None)
    check(r.blmove("jobs", "done", timeout=0.01), None)
    got = []

    def work(number):
        own = client()
        if number < 4:
            while True:
                _, job = own.blpop(["jobs", "others"])
                if job == b"stop":
                    return
                got.append(job)
                own.rpush("done", job)
        else:
            for job in range(100):
                own.rpush("jobs", f"{number}-{job}")

    workers = threading.Thread(target=run_threads, args=(6, work))
    workers.start()
    for _ in range(200):
        assert r.blpop(["done"], timeout=30) is not None
    r.rpush("jobs", *["stop"] * 4)
    workers.join()
    check(len(set(got)), 200)
    waiter = threading.Thread(target=lambda: got.append(client().blmove("from", "to", 0)))
    waiter.start()
    r.rpush("from", "moved")
    waiter.join()
    check(got[-1], b"moved")
    check(r.lrange("to", 0, -1), [text("moved")])
    r.delete("to")


def reconnection():
    r = client(retry=redis.retry.Retry(redis.backoff.NoBackoff(), 3))
    pool = [client() for _ in range(3)]
    r.set("before", 1)
    for each in pool:
        check(each.get("before"), b"1")
    print("RESTART", flush=True)
    sys.stdin.readline()
    check(r.get("before"), None)
    for each in pool:
        check(each.set("after", 1), True)
    check(r.get("after"), b"1")


def main():
    for protocol in (2, 3):
        for decode in (False, True):
            r = client(protocol=protocol, decode_responses=decode)
            text = str if decode else str.encode
            basics(r, text)
            introspection(r)
            pipelines(r, text)
            transactions(r, text)
            blocking(r, text)
            print(f"RESP{protocol} decode_responses={decode}", flush=True)
    reconnection()
    print("reconnection", flush=True)


main()
