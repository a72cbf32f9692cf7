-- KEYS: the fields of the stream, its entries, its channel
-- ARGV: id
local key = redis.call('HGET', KEYS[1], 'key')
if redis.call('DEL', KEYS[1]) == 0 then return {'NotFound'} end
redis.call('DEL', KEYS[2])
if key and redis.call('GET', key) == ARGV[1] then redis.call('DEL', key) end
redis.call('PUBLISH', KEYS[3], '')
return {'Ok'}
