"""Scripts of the Redis store that try what a server permits, and mend what somebody else has put into a pool."""

from __future__ import annotations

from typing import Final

from shared_core.store.redis_scripts import KEYS

# Tries every command that the store needs, on keys of its own, and leaves nothing behind (without the right to delete:
# one key for a minute). Returns the first command that is refused, with the server's error; nothing if there is none.
PROBE: Final = (
    KEYS
    + """
local text, hash, set, zset, stream =
  key('probe', 'text'), key('probe', 'hash'), key('probe', 'set'), key('probe', 'zset'), key('probe', 'stream')
local delete = {'DEL', text, hash, set, zset, stream}
local commands = {
  {'SET', text, '1', 'PX', 60000}, delete, {'SET', text, '1', 'PX', 60000}, {'GET', text}, {'MGET', text}, {'INCR', text}, {'INCRBY', text, 1}, {'DECRBY', text, 1}, {'PTTL', text},
  {'PEXPIRE', text, 60000}, {'EXISTS', text},
  {'HSET', hash, 'a', '1'}, {'HSETNX', hash, 'a', '1'}, {'HGET', hash, 'a'}, {'HMGET', hash, 'a'}, {'HVALS', hash},
  {'HEXISTS', hash, 'a'}, {'HGETALL', hash}, {'HLEN', hash}, {'PERSIST', hash}, {'HINCRBY', hash, 'a', 1}, {'HDEL', hash, 'a'}, {'UNLINK', hash},
  {'SADD', set, 'a'}, {'SMEMBERS', set}, {'SREM', set, 'a'},
  {'ZADD', zset, 'GT', 1, 'a'}, {'ZCARD', zset}, {'ZSCORE', zset, 'a'}, {'ZRANGE', zset, 0, 1}, {'ZRANGEBYSCORE', zset, 0, 1},
  {'ZSCAN', zset, 0}, {'ZREM', zset, 'a'},
  {'XADD', stream, '1-0', 'a', '1'}, {'XRANGE', stream, '-', '+'}, {'XREVRANGE', stream, '+', '-'},
  {'XTRIM', stream, 'MINID', '1-0'}, {'XINFO', 'STREAM', stream},
  {'TIME'}, {'TYPE', text}, {'RENAME', text, text},
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

# ARGV: names of scopes, ids, leases that a refused call has used. Renames keys of another type than the pool's to
# ``damaged:<key>``; returns how many.
MEND: Final = (
    KEYS
    + """
local names, moved = {}, 0
local function check(suffix, wanted)
  local found = redis.call('TYPE', prefix .. suffix).ok
  if found ~= 'none' and found ~= wanted then
    redis.call('RENAME', prefix .. suffix, prefix .. 'damaged:' .. suffix)
    moved = moved + 1
  end
end
local pool = {claims = 'hash', scopes = 'set', expiring = 'zset', changes = 'stream', feedback = 'stream',
  ['feedback:last'] = 'string', checkpoint = 'hash', rounds = 'hash'}
for suffix, wanted in pairs(pool) do check(suffix, wanted) end
for _, name in ipairs(ARGV) do names[name] = true end
for _, name in ipairs(redis.call('SMEMBERS', prefix .. 'scopes')) do names[name] = true end
for _, name in ipairs(redis.call('ZRANGE', prefix .. 'expiring', 0, -1)) do names[name] = true end
local kinds = {ages = 'zset', entry = 'hash', statistics = 'hash', texts = 'hash', vector = 'hash', answer = 'hash',
  decisions = 'zset', exacts = 'zset', waitings = 'zset', waitingbytes = 'string',
  decision = 'string', exact = 'string', waiting = 'hash', rated = 'hash', part = 'hash', lease = 'hash'}
for name in pairs(names) do
  for kind, wanted in pairs(kinds) do check(kind .. ':' .. name, wanted) end
end
return moved
"""
)
