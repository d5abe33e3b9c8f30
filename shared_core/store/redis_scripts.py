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
    checkpoint, part:<key>, rounds  hash    what is learned (`redis_learning`)
    lease:<name>                    hash    token, and while it is held owner and expires
    damaged:<key>                           what was found under a key, and cannot be used

A script that writes to the feed gets the time in microseconds as ARGV[1] and the length of the feed as ARGV[2].
"""

from __future__ import annotations

from typing import Final

from shared_core.store import redis_waiting

# `whole` reads a stored number: 0 if it is none, or too large for the doubles of Lua.
KEYS: Final = """
local prefix = KEYS[1]
local function key(kind, name) return prefix .. kind .. ':' .. name end
local function whole(text)
  local number = text and #text <= 16 and string.match(text, '^%d+$') and tonumber(text) or 0
  return number < 9007199254740992 and number or 0
end
local function last_of(stream)
  local info = redis.pcall('XINFO', 'STREAM', stream)
  for i = 1, #info, 2 do
    if info[i] == 'last-generated-id' then return tonumber(string.match(info[i + 1], '^%d+')) end
  end
end
"""

# A sequence number is the time in microseconds, or the last number plus one if the clock is behind it. So a server that
# lost its newest writes (a crash, a failover) never issues a number twice. A replica that saw the lost writes finds its
# own position missing and reloads. The entry '0-1' marks a feed that is complete from its start. After an entry of
# somebody else's whose number cannot be followed, the feed begins again, without that mark.
_FEED: Final = (
    KEYS
    + """
local changes = prefix .. 'changes'
local last
local function add_change(kind, scope, id)
  if not last then
    last = last_of(changes)
    if not last then
      redis.call('XADD', changes, '0-1', 'kind', 'origin', 'scope', '', 'id', '')
      last = 0
    elseif last >= 9007199254740991 then
      local known = redis.call('XREVRANGE', changes, '9007199254740990-0', '-', 'COUNT', 1)[1]
      last = known and tonumber(string.match(known[1], '^%d+')) or 0
      redis.call('DEL', changes)
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
# admit, decision id, scope, 1 if it must wait, `codec.admitted`, then what follows `example`;
# feedback, decision id, rater, token of this call, value, time of the rating, milliseconds to remember it.
# Returns for each rating, claim and admission whether it came in time. A call that is repeated after a lost reply finds its own token and gets
# the same reply as the first time.
#
# The next offset follows all that the log, its counter or the checkpoint names: whatever of them was lost, no offset is
# used twice, and none lies before what was learned. A foreign entry that leaves no number after it goes, with a copy of
# the log, to a key of its own.
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
local function next_offset()
  local log = prefix .. 'feedback'
  local last = last_of(log) or 0
  if last >= 9007199254740991 then
    local entries = redis.call('XRANGE', log, '-', '9007199254740990-0')
    redis.call('RENAME', log, prefix .. 'damaged:feedback')
    last = 0
    for _, entry in ipairs(entries) do
      redis.call('XADD', log, entry[1], unpack(entry[2]))
      last = tonumber(string.match(entry[1], '^%d+'))
    end
  end
  local learned = redis.call('HGET', prefix .. 'checkpoint', 'offset')
  return math.max(last, whole(redis.call('GET', prefix .. 'feedback:last')), whole(learned)) + 1
end
local function rate(decision, rater, call, value, at, remember)
  local rated = key('rated', decision)
  local before = redis.call('HGET', rated, rater)
  if before then return string.sub(before, 1, #call) == call and 1 or 0 end
  local offset = string.format('%.0f', next_offset())
  redis.call('XADD', prefix .. 'feedback', offset .. '-0', 'at', at, 'value', value)
  redis.call('SET', prefix .. 'feedback:last', offset)
  redis.call('HSET', rated, rater, call .. ' ' .. offset)
  redis.call('PEXPIRE', rated, remember)
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
    KEYS
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
    KEYS
    + """
return {
  redis.call('HMGET', key('entry', ARGV[1]), unpack(ARGV, 2)),
  redis.call('HMGET', key('statistics', ARGV[1]), unpack(ARGV, 2)),
  redis.call('HMGET', key('vector', ARGV[1]), unpack(ARGV, 2)),
}
"""
)

WAITING: Final = KEYS + redis_waiting.READ
RATINGS: Final = KEYS + redis_waiting.RATINGS

# ARGV: fact; value.
CLAIM: Final = (
    KEYS
    + """
redis.call('HSETNX', prefix .. 'claims', ARGV[1], ARGV[2])
return redis.call('HGET', prefix .. 'claims', ARGV[1])
"""
)

# ARGV: name of the chunks; number; chunk; milliseconds to keep it.
STAGE: Final = (
    KEYS
    + """
redis.call('HSET', prefix .. ARGV[1], ARGV[2], ARGV[3])
redis.call('PEXPIRE', prefix .. ARGV[1], ARGV[4])
"""
)

# ARGV 3: lease name; 4: its token; 5, 6: expected version and offset; 7: token of this call; 8: how many of the oldest
# log entries to check for deletion; 9: delete only entries up to this time; 10, 11: version, offset; 12, 13: place and
# report of the round; 14: number of parts; for each part: its field, head, key of the chunks, number and bytes of the
# last one; then for each example: scope, id, statistics. Nothing is published if staged chunks have expired.
PUBLISH: Final = (
    _FEED
    + """
local checkpoint = prefix .. 'checkpoint'
local stored = redis.call('HMGET', checkpoint, 'version', 'offset', 'call')
if stored[3] == ARGV[7] then return 1 end
if whole(stored[1]) ~= tonumber(ARGV[5]) or whole(stored[2]) ~= tonumber(ARGV[6]) then return 0 end
if whole(redis.call('HGET', key('lease', ARGV[3]), 'token')) ~= tonumber(ARGV[4]) then return 0 end
local examples = 15 + 5 * tonumber(ARGV[14])
for i = 15, examples - 1, 5 do
  if redis.call('HLEN', key('part', ARGV[i + 2])) ~= tonumber(ARGV[i + 3]) then return 0 end
end
for i = 15, examples - 1, 5 do
  local field, head, name, number, chunk = unpack(ARGV, i, i + 4)
  local before = string.match(redis.call('HGET', checkpoint, field) or '', '"key":"(%x+)"')
  redis.call('HSET', key('part', name), number, chunk)
  redis.call('PERSIST', key('part', name))
  redis.call('HSET', checkpoint, field, head)
  if before then redis.call('UNLINK', key('part', before)) end
end
redis.call('HSET', checkpoint, 'call', ARGV[7], 'version', ARGV[10], 'offset', ARGV[11])
redis.call('HDEL', checkpoint, 'head', 'arrays')
if ARGV[13] ~= '' then redis.call('HSET', prefix .. 'rounds', ARGV[12], ARGV[13]) end
for i = examples, #ARGV, 3 do
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
  if given and given > tonumber(ARGV[9]) then break end
  kept = tonumber(string.match(entry[1], '^%d+')) + 1
end
if kept > 0 then redis.call('XTRIM', prefix .. 'feedback', 'MINID', string.format('%.0f-0', kept)) end
return 1
"""
)

# ARGV: lease name; owner; seconds; the most seconds that a lease may last. Returns the token and the time of expiry by
# the server's clock, or nothing while another owner holds the lease. A token that was lost is followed by one that is
# larger than any before.
ACQUIRE: Final = (
    KEYS
    + """
local lease = key('lease', ARGV[1])
local held = redis.call('HMGET', lease, 'owner', 'expires', 'token')
local time = redis.call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1e6
local token, expires = whole(held[3]), tonumber(held[2])
if held[1] and token > 0 and expires and expires > now and expires <= now + tonumber(ARGV[4]) then
  if held[1] ~= ARGV[2] then return false end
elseif token > 0 or not held[3] then
  token = token + 1
else
  token = math.floor(now * 1e6)
end
token, expires = string.format('%.0f', token), string.format('%.6f', now + math.min(tonumber(ARGV[3]), tonumber(ARGV[4])))
redis.call('HSET', lease, 'owner', ARGV[2], 'expires', expires, 'token', token)
return {token, expires}
"""
)

# ARGV: lease name; token.
RELEASE: Final = (
    KEYS
    + """
local lease = key('lease', ARGV[1])
if redis.call('HGET', lease, 'token') == ARGV[2] then redis.call('HDEL', lease, 'owner', 'expires') end
"""
)

ALL: Final = (
    WRITE,
    DELETE,
    CLEAR,
    TRIM,
    ROWS,
    CLAIM,
    STAGE,
    PUBLISH,
    ACQUIRE,
    RELEASE,
    WAITING,
    RATINGS,
)
