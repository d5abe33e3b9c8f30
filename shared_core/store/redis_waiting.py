"""Lua functions of the Redis store about answers that wait for feedback; `redis_scripts` puts them into its scripts.

They use its functions `key` and `whole`, and `prefix`.
"""

from __future__ import annotations

from typing import Final

# A waiting answer's place on the shelf is '<bytes>:<decision id>', so the total stays right when Redis has expired it. A
# total that was damaged is counted again.
NO_LONGER: Final = """
local function no_longer(scope, place)
  local bytes, id = string.match(place or '', '^(%d+):(.*)$')
  local removed = redis.call('ZREM', key('waitings', scope), place or '') == 1
  if not id then return end
  local answer, total = key('waiting', id), key('waitingbytes', scope)
  if removed and redis.call('EXISTS', total) == 1 then
    local left = math.max(0, whole(redis.call('GET', total)) - whole(bytes))
    redis.call('SET', total, string.format('%.0f', left), 'KEEPTTL')
  end
  if redis.call('HGET', answer, 'scope') == scope then redis.call('DEL', answer) end
end
local function total_of(scope, most)
  local total, bytes = key('waitingbytes', scope), 0
  local stored = redis.call('GET', total)
  if stored and (whole(stored) > 0 or stored == '0') and whole(stored) <= 2 * most then return whole(stored) end
  for _, place in ipairs(redis.call('ZRANGE', key('waitings', scope), 0, -1)) do
    bytes = bytes + whole(string.match(place, '^(%d+):'))
  end
  redis.call('SET', total, string.format('%.0f', bytes), 'KEEPTTL')
  return bytes
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
  redis.call('SET', total, string.format('%.0f', total_of(scope, tonumber(bytes)) + #value), 'KEEPTTL')
  redis.call('ZADD', shelf, expires, place)
  for _, old in ipairs(redis.call('ZRANGEBYSCORE', shelf, '-inf', ARGV[3], 'LIMIT', 0, 8)) do
    no_longer(scope, old)
  end
  for _ = 1, 1000 do
    local held = redis.call('ZCARD', shelf)
    if held == 0 or held <= tonumber(answers) and total_of(scope, tonumber(bytes)) <= tonumber(bytes) then break end
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
  redis.call('DEL', key('waiting', decision))
  return 1
end
local function admit(decision, scope, claims, link, ...)
  if claims == '1' and claim(decision, scope) == 0 then return 0 end
  put(...)
  local record = redis.call('ZSCORE', key('decisions', scope), decision) and redis.call('GET', key('decision', decision))
  local first, last = string.find(record or '', '"admitted_id":""', 1, true)
  if first then
    local linked = string.sub(record, 1, first - 1) .. link .. string.sub(record, last + 1)
    redis.call('SET', key('decision', decision), linked, 'KEEPTTL')
  end
  return 1
end
"""
)

# ARGV: decision ids. Returns position, scope and value of each that waits; most ask for many that do not.
READ: Final = """
local found = {}
for i, id in ipairs(ARGV) do
  local value = redis.call('HGET', key('waiting', id), 'value')
  if value then found[#found + 1] = {i, redis.call('HGET', key('waiting', id), 'scope'), value} end
end
return found
"""

# ARGV: decision ids. Returns their ratings, each with 1 if its offset is within the checkpoint.
RATINGS: Final = """
local learned = whole(redis.call('HGET', prefix .. 'checkpoint', 'offset'))
local found = {}
for _, id in ipairs(ARGV) do
  for _, call in ipairs(redis.call('HVALS', key('rated', id))) do
    local offset = string.format('%.0f', whole(string.match(call, ' (%d+)$')))
    local entry = offset ~= '0' and redis.call('XRANGE', prefix .. 'feedback', offset .. '-0', offset .. '-0')[1]
    for i = 1, entry and #entry[2] or 0, 2 do
      if entry[2][i] == 'value' then
        found[#found + 1] = {entry[2][i + 1], tonumber(offset) <= learned and 1 or 0}
      end
    end
  end
end
return found
"""
