-- KEYS: the fields of the stream, its entries
-- ARGV: the first offset of the last entry that was read, or '' before the first one; the next offset; how many entries
-- Returns `next`, `end` ('' if there is none), and the entries, each with its first offset.
local fields = redis.call('HMGET', KEYS[1], 'next', 'end')
if not fields[1] then return {'NotFound'} end
local entries
if ARGV[1] == '' then
  -- The entry in which the next offset is, or the last one before it.
  entries = redis.call('XREVRANGE', KEYS[2], ARGV[2] .. '-0', '-', 'COUNT', 1)
else
  entries = redis.call('XRANGE', KEYS[2], '(' .. ARGV[1] .. '-0', '+', 'COUNT', ARGV[3])
end
local answer = {'Ok', fields[1], fields[2] or ''}
for _, entry in ipairs(entries) do
  answer[#answer + 1] = string.match(entry[1], '^%d+')
  answer[#answer + 1] = entry[2][2]
end
return answer
