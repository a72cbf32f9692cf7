-- KEYS: the fields of the stream, its entries
-- ARGV: epoch, or '' to take the stream over; whether to take it over although its lease lives; age
local fields = redis.call('HMGET', KEYS[1], 'epoch', 'end', 'lease', 'until', 'next', 'key')
local epoch, lease, next = fields[1], fields[3], fields[5]
if not epoch then return {'NotFound'} end
if ARGV[1] ~= '' and epoch ~= ARGV[1] then return {'Fenced'} end
if fields[2] then return {'Ended'} end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
if ARGV[1] == '' then
  if ARGV[2] ~= '1' and tonumber(fields[4]) > now then return {'Held'} end
  local forks = redis.call('HGET', KEYS[1], 'forks')
  epoch = string.format('%.0f', epoch + 1)
  -- An entry of the earlier producer is no retry of the new one, hence `last`.
  redis.call('HSET', KEYS[1], 'epoch', epoch, 'last', '0', 'forks', forks and forks .. ',' .. next or next)
end
redis.call('HSET', KEYS[1], 'until', string.format('%.0f', now + lease))
redis.call('PEXPIRE', KEYS[1], ARGV[3])
redis.call('PEXPIRE', KEYS[2], ARGV[3])
if fields[6] then redis.call('PEXPIRE', fields[6], ARGV[3]) end
return {'Ok', epoch, next}
