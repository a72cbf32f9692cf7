-- KEYS: the fields of the stream
-- A script and no transaction: a server that is short of memory refuses transactions, even those that only read.
local fields = redis.call('HGETALL', KEYS[1])
if #fields == 0 then return {'NotFound'} end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
return {'Ok', string.format('%.0f', now), unpack(fields)}
