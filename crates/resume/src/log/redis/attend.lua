-- KEYS: the fields of the stream
-- ARGV: how long it has a reader
local fields = redis.call('HMGET', KEYS[1], 'epoch', 'attended')
if not fields[1] then return {'NotFound'} end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
if now + ARGV[1] > tonumber(fields[2] or '0') then
  redis.call('HSET', KEYS[1], 'attended', string.format('%.0f', now + ARGV[1]))
end
return {'Ok'}
