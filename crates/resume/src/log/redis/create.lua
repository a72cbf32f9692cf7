-- KEYS: the fields of the stream, the key of the application if there is one
-- ARGV: id, meta, lease, age, whether to join, the prefix of the fields of any stream
if redis.call('EXISTS', KEYS[1]) == 1 then return {'Exists'} end
if KEYS[2] then
  if ARGV[5] == '1' then
    local bound = redis.call('GET', KEYS[2])
    local fields = bound and redis.call('HMGET', ARGV[6] .. bound, 'epoch', 'end')
    if fields and fields[1] and not fields[2] then return {'Joined', bound} end
  end
  redis.call('SET', KEYS[2], ARGV[1], 'PX', ARGV[4])
  redis.call('HSET', KEYS[1], 'key', KEYS[2])
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('HSET', KEYS[1], 'meta', ARGV[2], 'lease', ARGV[3], 'until', string.format('%.0f', now + ARGV[3]),
  'epoch', '1', 'first', '1', 'next', '1', 'last', '0', 'bytes', '0', 'cost', '0')
redis.call('PEXPIRE', KEYS[1], ARGV[4])
return {'Ok'}
