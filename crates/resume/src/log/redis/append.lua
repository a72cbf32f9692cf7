-- KEYS: the fields of the stream, its entries, its channel
-- ARGV: epoch, first, next, end, entry, records, bytes, cost, whether to trim, bound, age
local fields = redis.call('HMGET', KEYS[1], 'epoch', 'next', 'last', 'end', 'bytes', 'cost', 'first', 'lease', 'key')
local epoch, next, last, ended = fields[1], fields[2], fields[3], fields[4]
if not epoch then return {'NotFound'} end
if epoch ~= ARGV[1] then return {'Fenced'} end
local is_retry = last == ARGV[2] and next == ARGV[3] and (ended or '') == ARGV[4]
if not is_retry then
  if ended then return {'Ended'} end
  if next ~= ARGV[2] then return {'Conflict', next} end
  local bytes, cost, first = tonumber(fields[5]), tonumber(fields[6]), tonumber(fields[7])
  local added, bound = tonumber(ARGV[8]), tonumber(ARGV[10])
  if added > bound then return {'TooLarge'} end
  local old = {}
  if added > 0 and cost + added > bound then
    if ARGV[9] ~= '1' then return {'Full'} end
    local from = '-'
    while cost + added > bound do
      local oldest = redis.call('XRANGE', KEYS[2], from, '+', 'COUNT', 1)[1]
      if not oldest then break end
      local records, length = tonumber(oldest[2][4]), tonumber(oldest[2][6])
      old[#old + 1] = oldest[1]
      from = '(' .. oldest[1]
      first, bytes, cost = first + records, bytes - length, cost - tonumber(oldest[2][8])
    end
  end
  -- The writes that fail when memory is short come first. If the first one succeeds, all do.
  if ARGV[3] ~= ARGV[2] then
    redis.call('XADD', KEYS[2], ARGV[2] .. '-0', 'entry', ARGV[5], 'records', ARGV[6], 'bytes', ARGV[7], 'cost', ARGV[8])
  end
  redis.call('HSET', KEYS[1], 'next', ARGV[3], 'last', ARGV[2], 'first', string.format('%.0f', first),
    'bytes', string.format('%.0f', bytes + ARGV[7]), 'cost', string.format('%.0f', cost + added))
  if ARGV[4] ~= '' then redis.call('HSET', KEYS[1], 'end', ARGV[4]) end
  for _, id in ipairs(old) do redis.call('XDEL', KEYS[2], id) end
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('HSET', KEYS[1], 'until', string.format('%.0f', now + fields[8]))
redis.call('PEXPIRE', KEYS[1], ARGV[11])
redis.call('PEXPIRE', KEYS[2], ARGV[11])
if fields[9] then redis.call('PEXPIRE', fields[9], ARGV[11]) end
redis.call('PUBLISH', KEYS[3], '')
return {'Ok'}
