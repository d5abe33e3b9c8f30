"""Lua functions of the Redis store about answers that wait for feedback; `redis_scripts` puts them into its scripts.

They use its functions `key` and `prefix`.
"""

from __future__ import annotations

from typing import Final

# A waiting answer's place on the shelf is '<bytes>:<decision id>', so the total stays right when Redis has expired it.
NO_LONGER: Final = """
local function no_longer(scope, place)
  local colon = string.find(place, ':', 1, true)
  local answer = key('waiting', string.sub(place, colon + 1))
  if redis.call('ZREM', key('waitings', scope), place) == 1 then
    redis.call('DECRBY', key('waitingbytes', scope), string.sub(place, 1, colon - 1))
  end
  if redis.call('HGET', answer, 'scope') == scope then redis.call('DEL', answer) end
end
"""

# ARGV[3] is now in seconds. `wait` deletes expired answers, and the oldest beyond the limits. `admit` returns 0 if the
# answer that it claims does not wait. The record of the decision is not decoded, because cjson would round its numbers;
# in JSON this text can only be that field, since quotes within a string are escaped.
WRITE: Final = (
    NO_LONGER
    + """
local function wait(id, scope, value, expires, ttl, answers, bytes)
  local shelf, total = key('waitings', scope), key('waitingbytes', scope)
  local before = redis.call('HMGET', key('waiting', id), 'scope', 'place')
  if before[1] then no_longer(before[1], before[2]) end
  if redis.call('EXISTS', shelf) == 0 then redis.call('DEL', total) end
  if #value > tonumber(bytes) then return end
  local place = #value .. ':' .. id
  redis.call('HSET', key('waiting', id), 'scope', scope, 'place', place, 'value', value)
  redis.call('PEXPIRE', key('waiting', id), ttl)
  redis.call('ZADD', shelf, expires, place)
  redis.call('INCRBY', total, #value)
  for _, old in ipairs(redis.call('ZRANGEBYSCORE', shelf, '-inf', ARGV[3], 'LIMIT', 0, 8)) do
    no_longer(scope, old)
  end
  for _ = 1, 1000 do
    local held = redis.call('ZCARD', shelf)
    if held == 0 or held <= tonumber(answers) and tonumber(redis.call('GET', total)) <= tonumber(bytes) then break end
    no_longer(scope, redis.call('ZRANGE', shelf, 0, 0)[1])
  end
  for _, name in ipairs({shelf, total}) do
    if redis.call('PTTL', name) < tonumber(ttl) then redis.call('PEXPIRE', name, ttl) end
  end
  redis.call('ZADD', prefix .. 'expiring', 'GT', expires, scope)
end
local function claim(decision, scope)
  local held = redis.call('HMGET', key('waiting', decision), 'scope', 'place')
  if held[1] ~= scope then return 0 end
  no_longer(scope, held[2])
  return 1
end
local function admit(decision, scope, claims, link, ...)
  if claims == '1' and claim(decision, scope) == 0 then return 0 end
  put(...)
  local record = redis.call('ZSCORE', key('decisions', scope), decision) and redis.call('GET', key('decision', decision))
  local first, last = string.find(record or '', '"admitted_id":""', 1, true)
  if first then
    local linked = string.sub(record, 1, first - 1) .. '"admitted_id":' .. link .. string.sub(record, last + 1)
    redis.call('SET', key('decision', decision), linked, 'KEEPTTL')
  end
  return 1
end
"""
)

# ARGV: decision ids. Returns the scope and the value of each.
READ: Final = """
local found = {}
for i, id in ipairs(ARGV) do found[i] = redis.call('HMGET', key('waiting', id), 'scope', 'value') end
return found
"""

# ARGV: decision ids. Returns their ratings, each with 1 if its offset is within the checkpoint.
RATINGS: Final = """
local learned = tonumber(redis.call('HGET', prefix .. 'checkpoint', 'offset') or 0)
local found = {}
for _, id in ipairs(ARGV) do
  for _, call in ipairs(redis.call('HVALS', key('rated', id))) do
    local offset = string.match(call, ' (%d+)$')
    local entry = offset and redis.call('XRANGE', prefix .. 'feedback', offset .. '-0', offset .. '-0')[1]
    for i = 1, entry and #entry[2] or 0, 2 do
      if entry[2][i] == 'value' then
        found[#found + 1] = {entry[2][i + 1], tonumber(offset) <= learned and 1 or 0}
      end
    end
  end
end
return found
"""
