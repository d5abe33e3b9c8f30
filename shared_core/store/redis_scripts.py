"""The writes of the Redis store, each one Lua script and so atomic.

Every script gets the pool's prefix ``{iccache:<pool>}:`` as its only declared key. The prefix determines the cluster
slot of the whole pool; the script derives the keys below from it.

    claims                          hash    fact → value
    scopes                          set     scopes that hold examples
    ages:<scope>                    zset    example id by created_at
    entry|statistics|texts|vector|answer:<scope>
                                    hash    example id → encoded part (`answer`: key of its exact answer)
    decision:<id>, exact:<key>      string  encoded value, with the time to live as PEXPIRE
    waiting:<decision id>           hash    scope, value and place of a waiting answer, with PEXPIRE
    decisions:<scope>, exacts:<scope>, waitings:<scope>
                                    zset    ids and keys (`waitings`: places) for `clear`, by expiry time
    waitingbytes:<scope>            string  bytes of the waiting answers of `waitings`
    expiring                        zset    scopes that hold any of these, by their last expiry time
    changes                         stream  the change feed, ids ``<seq>-0``
    feedback, feedback:last         stream and counter: the feedback log, ids ``<offset>-0``
    rated:<decision id>             hash    rater → token of the call that wrote the rating, and offset
    checkpoint                      hash    version, offset, head, arrays, token of the call that published it
    lease:<name>                    hash    token, and while it is held owner and expires

A script that writes to the feed gets the time in microseconds as ARGV[1] and the length of the feed as ARGV[2].
"""

from __future__ import annotations

from typing import Final

from shared_core.store import redis_waiting

_KEYS: Final = """
local prefix = KEYS[1]
local function key(kind, name) return prefix .. kind .. ':' .. name end
"""

# A sequence number is the time in microseconds, or the last number plus one if the clock is behind it. So a server that
# lost its newest writes (a crash, a failover) never issues a number twice. A replica that saw the lost writes finds its
# own position missing and reloads. The entry '0-1' marks a feed that is complete from its start.
_FEED: Final = (
    _KEYS
    + """
local changes = prefix .. 'changes'
local last
local function add_change(kind, scope, id)
  if not last then
    local newest = redis.call('XREVRANGE', changes, '+', '-', 'COUNT', 1)[1]
    if newest then
      last = tonumber(string.match(newest[1], '^%d+'))
    else
      redis.call('XADD', changes, '0-1', 'kind', 'origin', 'scope', '', 'id', '')
      last = 0
    end
  end
  last = math.max(last + 1, tonumber(ARGV[1]))
  redis.call('XADD', changes, 'MAXLEN', '~', ARGV[2], string.format('%.0f-0', last),
    'kind', kind, 'scope', scope, 'id', id)
end
"""
)

_REMOVE: Final = (
    _FEED
    + """
local parts = {'entry', 'statistics', 'texts', 'vector', 'answer'}
local function remove(scope, id)
  local existed = redis.call('ZREM', key('ages', scope), id)
  local answer = redis.call('HGET', key('answer', scope), id)
  for _, part in ipairs(parts) do redis.call('HDEL', key(part, scope), id) end
  if answer and redis.call('ZREM', key('exacts', scope), answer) == 1 then
    redis.call('DEL', key('exact', answer))
  end
  if existed == 1 then add_change('delete', scope, id) end
  return existed
end
local function unlist(scope)
  if redis.call('EXISTS', key('ages', scope)) == 0 then redis.call('SREM', prefix .. 'scopes', scope) end
end
"""
)

# ARGV 3: now in seconds; then the parts of all records in order, each with its kind:
# decision|exact, id, scope, value, expires at, milliseconds to live;
# example, id, scope, created at, entry, statistics, texts, vector, exact key;
# waiting, decision id, scope, value, expires at, milliseconds to live, limits of answers and bytes in the scope;
# claim, decision id, scope;
# admit, decision id, scope, 1 if it must wait, the example's id in JSON, then what follows `example`;
# feedback, decision id, rater, token of this call, value, time of the rating, milliseconds to remember it.
# Returns for each rating, claim and admission whether it came in time. A call that is repeated after a lost reply finds its own token and gets
# the same reply as the first time.
WRITE: Final = (
    _FEED
    + """
local function prune(shelf)
  return redis.call('ZRANGEBYSCORE', shelf, '-inf', ARGV[3], 'LIMIT', 0, 8)
end
local function set_expiring(kind, id, scope, value, expires, ttl)
  redis.call('SET', key(kind, id), value, 'PX', ttl)
  local shelf = key(kind .. 's', scope)
  redis.call('ZADD', shelf, expires, id)
  for _, old in ipairs(prune(shelf)) do
    redis.call('ZREM', shelf, old)
    redis.call('DEL', key(kind, old))
  end
  if redis.call('PTTL', shelf) < tonumber(ttl) then redis.call('PEXPIRE', shelf, ttl) end
  redis.call('ZADD', prefix .. 'expiring', 'GT', expires, scope)
  for _, old in ipairs(prune(prefix .. 'expiring')) do redis.call('ZREM', prefix .. 'expiring', old) end
end
local function put(id, scope, created, entry, statistics, texts, vector, answer)
  redis.call('HSET', key('entry', scope), id, entry)
  redis.call('HSET', key('statistics', scope), id, statistics)
  redis.call('HSET', key('texts', scope), id, texts)
  redis.call('HSET', key('vector', scope), id, vector)
  if answer == '' then
    redis.call('HDEL', key('answer', scope), id)
  else
    redis.call('HSET', key('answer', scope), id, answer)
  end
  redis.call('ZADD', key('ages', scope), created, id)
  redis.call('SADD', prefix .. 'scopes', scope)
  add_change('put', scope, id)
end
local function rate(decision, rater, call, value, at, remember)
  local rated = key('rated', decision)
  local before = redis.call('HGET', rated, rater)
  if before then return string.sub(before, 1, #call) == call and 1 or 0 end
  local offset = redis.call('INCR', prefix .. 'feedback:last')
  redis.call('HSET', rated, rater, call .. string.format(' %.0f', offset))
  redis.call('PEXPIRE', rated, remember)
  redis.call('XADD', prefix .. 'feedback', string.format('%.0f-0', offset), 'at', at, 'value', value)
  return 1
end
"""
    + redis_waiting.WRITE
    + """
local fresh = {}
local i = 4
while i <= #ARGV do
  local kind = ARGV[i]
  if kind == 'example' then
    put(unpack(ARGV, i + 1, i + 8))
    i = i + 9
  elseif kind == 'feedback' then
    fresh[#fresh + 1] = rate(unpack(ARGV, i + 1, i + 6))
    i = i + 7
  elseif kind == 'waiting' then
    wait(unpack(ARGV, i + 1, i + 7))
    i = i + 8
  elseif kind == 'claim' then
    fresh[#fresh + 1] = claim(unpack(ARGV, i + 1, i + 2))
    i = i + 3
  elseif kind == 'admit' then
    fresh[#fresh + 1] = admit(unpack(ARGV, i + 1, i + 12))
    i = i + 13
  else
    set_expiring(kind, unpack(ARGV, i + 1, i + 5))
    i = i + 6
  end
end
return fresh
"""
)

# ARGV 3: scope; then ids. Returns how many existed.
DELETE: Final = (
    _REMOVE
    + """
local existed = 0
for i = 4, #ARGV do existed = existed + remove(ARGV[3], ARGV[i]) end
unlist(ARGV[3])
return existed
"""
)

# ARGV 3: scope; 4: limit for each kind. Returns how many examples were deleted, and whether anything is left.
CLEAR: Final = (
    _REMOVE
    + redis_waiting.NO_LONGER
    + """
local scope = ARGV[3]
local existed = 0
for _, id in ipairs(redis.call('ZRANGE', key('ages', scope), 0, ARGV[4] - 1)) do
  existed = existed + remove(scope, id)
end
unlist(scope)
for _, kind in ipairs({'decision', 'exact'}) do
  local shelf = key(kind .. 's', scope)
  for _, id in ipairs(redis.call('ZRANGE', shelf, 0, ARGV[4] - 1)) do
    redis.call('DEL', key(kind, id))
    redis.call('ZREM', shelf, id)
  end
end
for _, place in ipairs(redis.call('ZRANGE', key('waitings', scope), 0, ARGV[4] - 1)) do no_longer(scope, place) end
local left = redis.call('EXISTS', key('ages', scope), key('decisions', scope), key('exacts', scope),
  key('waitings', scope))
if left == 0 then redis.call('ZREM', prefix .. 'expiring', scope) end
return {existed, left}
"""
)

# ARGV: decisions that a scope may hold; how many to delete at most. Returns how many were deleted.
TRIM: Final = (
    _KEYS
    + """
local limit, left = tonumber(ARGV[1]), tonumber(ARGV[2])
local removed = 0
for _, scope in ipairs(redis.call('ZRANGE', prefix .. 'expiring', 0, -1)) do
  local shelf = key('decisions', scope)
  local surplus = math.min(redis.call('ZCARD', shelf) - limit, left - removed)
  if surplus > 0 then
    for _, id in ipairs(redis.call('ZRANGE', shelf, 0, surplus - 1)) do
      redis.call('DEL', key('decision', id))
      redis.call('ZREM', shelf, id)
    end
    removed = removed + surplus
  end
end
return removed
"""
)

# ARGV: scope; then ids. Returns entries, statistics and vectors, read atomically.
ROWS: Final = (
    _KEYS
    + """
return {
  redis.call('HMGET', key('entry', ARGV[1]), unpack(ARGV, 2)),
  redis.call('HMGET', key('statistics', ARGV[1]), unpack(ARGV, 2)),
  redis.call('HMGET', key('vector', ARGV[1]), unpack(ARGV, 2)),
}
"""
)

WAITING: Final = _KEYS + redis_waiting.READ
RATINGS: Final = _KEYS + redis_waiting.RATINGS

# ARGV: fact; value.
CLAIM: Final = (
    _KEYS
    + """
redis.call('HSETNX', prefix .. 'claims', ARGV[1], ARGV[2])
return redis.call('HGET', prefix .. 'claims', ARGV[1])
"""
)

# ARGV 3: lease name; 4: its token; 5, 6: expected version and offset; 7: token of this call; 8: how many of the oldest
# log entries to check for deletion; 9: delete only entries up to this time; 10-13: version, offset, head, arrays; then
# for each example: scope, id, statistics.
PUBLISH: Final = (
    _FEED
    + """
local stored = redis.call('HMGET', prefix .. 'checkpoint', 'version', 'offset', 'call')
if stored[3] == ARGV[7] then return 1 end
if (stored[1] or '0') ~= ARGV[5] or (stored[2] or '0') ~= ARGV[6] then return 0 end
if redis.call('HGET', key('lease', ARGV[3]), 'token') ~= ARGV[4] then return 0 end
redis.call('HSET', prefix .. 'checkpoint', 'call', ARGV[7], 'version', ARGV[10], 'offset', ARGV[11],
  'head', ARGV[12], 'arrays', ARGV[13])
for i = 14, #ARGV, 3 do
  local scope, id, statistics = unpack(ARGV, i, i + 2)
  if redis.call('HEXISTS', key('entry', scope), id) == 1 then
    redis.call('HSET', key('statistics', scope), id, statistics)
    add_change('statistics', scope, id)
  end
end
local kept = 0
for _, entry in ipairs(redis.call('XRANGE', prefix .. 'feedback', '-', ARGV[11] .. '-0', 'COUNT', ARGV[8])) do
  local given
  for i = 1, #entry[2], 2 do
    if entry[2][i] == 'at' then given = tonumber(entry[2][i + 1]) end
  end
  if not given or given > tonumber(ARGV[9]) then break end
  kept = tonumber(string.match(entry[1], '^%d+')) + 1
end
if kept > 0 then redis.call('XTRIM', prefix .. 'feedback', 'MINID', string.format('%.0f-0', kept)) end
return 1
"""
)

# ARGV: lease name; owner; now; expires at. Returns the token, or nothing while another owner holds the lease.
ACQUIRE: Final = (
    _KEYS
    + """
local lease = key('lease', ARGV[1])
local held = redis.call('HMGET', lease, 'owner', 'expires', 'token')
local token = held[3]
if held[1] and tonumber(held[2]) > tonumber(ARGV[3]) then
  if held[1] ~= ARGV[2] then return false end
else
  token = redis.call('HINCRBY', lease, 'token', 1)
end
redis.call('HSET', lease, 'owner', ARGV[2], 'expires', ARGV[4])
return tonumber(token)
"""
)

# ARGV: lease name; token.
RELEASE: Final = (
    _KEYS
    + """
local lease = key('lease', ARGV[1])
if redis.call('HGET', lease, 'token') == ARGV[2] then redis.call('HDEL', lease, 'owner', 'expires') end
"""
)

# Tries every command that the store needs, on keys of its own, and leaves nothing behind (without the right to delete:
# one key for a minute). Returns the first command that
# is refused, with the server's error; nothing if there is none.
PROBE: Final = (
    _KEYS
    + """
local text, hash, set, zset, stream =
  key('probe', 'text'), key('probe', 'hash'), key('probe', 'set'), key('probe', 'zset'), key('probe', 'stream')
local delete = {'DEL', text, hash, set, zset, stream}
local commands = {
  {'SET', text, '1', 'PX', 60000}, delete, {'SET', text, '1', 'PX', 60000}, {'GET', text}, {'MGET', text}, {'INCR', text}, {'INCRBY', text, 1}, {'DECRBY', text, 1}, {'PTTL', text},
  {'PEXPIRE', text, 60000}, {'EXISTS', text},
  {'HSET', hash, 'a', '1'}, {'HSETNX', hash, 'a', '1'}, {'HGET', hash, 'a'}, {'HMGET', hash, 'a'}, {'HVALS', hash},
  {'HEXISTS', hash, 'a'}, {'HINCRBY', hash, 'a', 1}, {'HDEL', hash, 'a'},
  {'SADD', set, 'a'}, {'SMEMBERS', set}, {'SREM', set, 'a'},
  {'ZADD', zset, 'GT', 1, 'a'}, {'ZCARD', zset}, {'ZSCORE', zset, 'a'}, {'ZRANGE', zset, 0, 1}, {'ZRANGEBYSCORE', zset, 0, 1},
  {'ZSCAN', zset, 0}, {'ZREM', zset, 'a'},
  {'XADD', stream, '1-0', 'a', '1'}, {'XRANGE', stream, '-', '+'}, {'XREVRANGE', stream, '+', '-'},
  {'XTRIM', stream, 'MINID', '1-0'},
}
local refused = {}
for _, command in ipairs(commands) do
  local reply = redis.pcall(unpack(command))
  if type(reply) == 'table' and reply.err then
    refused = {command[1], reply.err}
    break
  end
end
redis.pcall(unpack(delete))
return refused
"""
)

ALL: Final = (WRITE, DELETE, CLEAR, TRIM, ROWS, CLAIM, PUBLISH, ACQUIRE, RELEASE, PROBE, WAITING, RATINGS)
